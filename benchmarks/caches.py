"""Compares greedy generation with a growing key-value cache, as in evaluations, and a fixed one.

    python -m benchmarks.caches --model DIR

One prompt is longer than the others. So there is padding and a mask, as in an evaluation. Without a
mask, torch's attention in bf16 on a CPU is slower with both caches.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.timing import interleaved, speed_table

CACHES = {"grows": {}, "fixed": {"cache_implementation": "static", "disable_compile": True}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{args.batch_size} x {args.prompt_tokens} prompt tokens, {args.new_tokens} new ones each"
    )
    for dtype in ("float32", "bfloat16"):
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
        cases = {name: partial(generate, model, args, cache) for name, cache in CACHES.items()}
        seconds = interleaved(cases, args.repeats, warmup=1)
        print(f"\n{dtype}\n\n{speed_table(seconds, baseline='grows')}")


def generate(model, args, cache: dict) -> None:
    shape = (args.batch_size, args.prompt_tokens)
    prompts = torch.arange(shape[0] * shape[1]).view(shape) % model.config.vocab_size
    mask = torch.ones_like(prompts)
    mask[1:, : args.prompt_tokens // 10] = 0
    new = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}
    model.generate(prompts, attention_mask=mask, do_sample=False, **new, **cache)


if __name__ == "__main__":
    main()
