"""Convert a merged model for CTranslate2, and generate with it."""

import ctranslate2
from transformers import AutoTokenizer

folder = "results/dense/lam~0.75"
ctranslate2.converters.TransformersConverter(folder).convert("ctranslate2", force=True)
model = ctranslate2.Generator("ctranslate2", compute_type="float32")
tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = tokenizer.convert_ids_to_tokens(tokenizer("# The sum of a list\n").input_ids)
[result] = model.generate_batch(
    [prompt],
    max_length=32,
    sampling_topk=1,
    include_prompt_in_result=False,
    return_end_token=True,
)
[tokens] = result.sequences_ids
print(tokenizer.decode(tokens))
