"""Generate with a merged model in vLLM, in an environment of its own."""

from vllm import LLM, SamplingParams

if __name__ == "__main__":  # vLLM starts processes that load this file again
    model = LLM("results/dense/lam~0.75", dtype="float32", enforce_eager=True, max_model_len=256)
    settings = SamplingParams(temperature=0, max_tokens=32)
    [result] = model.generate(["# The sum of a list\n"], settings)
    tokens = list(result.outputs[0].token_ids)
    print(result.outputs[0].text)
