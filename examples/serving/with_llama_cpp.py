"""Generate with a merged model in llama.cpp, from the file that its converter wrote."""

from itertools import islice

from llama_cpp import Llama

model = Llama("dense.gguf", n_ctx=256, verbose=False)
prompt = model.tokenize(b"# The sum of a list\n", special=True)
tokens = list(islice(model.generate(prompt, top_k=1, repeat_penalty=1.0), 32))
print(model.detokenize(tokens).decode())
