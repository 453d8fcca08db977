"""Generate with a merged model in transformers."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "results/dense/lam~0.75"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
inputs = tokenizer("# The sum of a list\n", return_tensors="pt")
[row] = model.generate(**inputs, max_new_tokens=32, do_sample=False)
tokens = row[inputs.input_ids.shape[1] :].tolist()
print(tokenizer.decode(tokens))
