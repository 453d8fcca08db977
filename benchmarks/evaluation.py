"""Compares generation for an evaluation with the published way and with a plain one.

    python -m benchmarks.evaluation --model DIR --dataset HumanEvalPlus.jsonl.gz

The published way takes batches in the file's order. Each batch runs until its last row has ended or
has all new tokens. The plain way takes batches by length, and a row ends at transformers' own
`stop_strings`. All ways are greedy, with the same model and prompts, without token healing.

It prints the problems per second of each way, and how many solutions differ. Rows in different
batches are rounded differently, so another token may win if two are about equally likely. With
--alone each problem is also generated alone, which shows which of the two ways differs.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.timing import markdown_table
from xft.common.progress import progress
from xft.data.prompt_templates import make_template
from xft.data.tokenizers import load_tokenizer
from xft.evaluation.forms import load_problems
from xft.evaluation.generation import generate
from xft.evaluation.prompts import TaskPrompt, task_prompts

PUBLISHED_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    parser.add_argument("--dataset", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument(
        "--batch-size", type=int, default=PUBLISHED_BATCH, help="Not for the published way."
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.model)
    prompts = task_prompts(
        load_problems(args.dataset).first(args.limit), make_template("magicoder", None)
    )
    ways = {"published": published, "plain": plain, "ours": ours}
    if args.alone:
        ways["alone"] = partial(ours, batch_size=1)
    solutions, seconds = {}, {}
    for name, way in ways.items():
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
        start = time.perf_counter()
        solutions[name] = way(model, tokenizer, prompts, args)
        seconds[name] = time.perf_counter() - start
    print(f"{len(prompts)} problems, {args.max_new_tokens} new tokens at most, {args.dtype}")
    print(table(solutions, seconds))


def published(model, tokenizer, prompts: list[TaskPrompt], args) -> list[str]:
    """Batches of 16 in order, without stop sequences."""
    return in_batches(model, tokenizer, prompts, PUBLISHED_BATCH, args)


def plain(model, tokenizer, prompts: list[TaskPrompt], args) -> list[str]:
    """Batches by length, longest first, with stop sequences."""
    lengths = [len(prompt.encode(tokenizer)) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda number: -lengths[number])
    chosen = [prompts[number] for number in order]
    solutions = in_batches(
        model, tokenizer, chosen, args.batch_size, args, stop_strings=list(prompts[0].stops)
    )
    return [solution for _, solution in sorted(zip(order, solutions, strict=True))]


def in_batches(model, tokenizer, prompts, batch_size: int, args, **options) -> list[str]:
    """transformers' `generate` for one batch after the other. Rows that have ended are padded."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    tokenizer.padding_side = "left"
    solutions = []
    options = {"max_new_tokens": args.max_new_tokens, "do_sample": False, **options}
    for start in progress(range(0, len(prompts), batch_size), desc="batches", unit="batch"):
        batch = prompts[start : start + batch_size]
        encoded = {"input_ids": [prompt.encode(tokenizer) for prompt in batch]}
        inputs = tokenizer.pad(encoded, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, tokenizer=tokenizer, **options)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        solutions += [prompt.solution(text) for prompt, text in zip(batch, texts, strict=True)]
    return solutions


def ours(
    model, tokenizer, prompts: list[TaskPrompt], args, batch_size: int | None = None
) -> list[str]:
    limits = {"max_new_tokens": args.max_new_tokens, "batch_size": batch_size or args.batch_size}
    completions = dict(generate(model, tokenizer, prompts, token_healing=False, **limits))
    return [prompt.solution(completions[n].text) for n, prompt in enumerate(prompts)]


def table(solutions: dict[str, list[str]], seconds: dict[str, float]) -> str:
    """Markdown: problems per second, their ratio, and how many solutions differ between ways."""
    count = len(solutions["ours"])
    rows = []
    for name, of_way in solutions.items():
        speed = f"{count / seconds[name]:.3f}"
        ratio = f"{seconds['published'] / seconds[name]:.2f}"
        unlike = []
        for other in solutions.values():
            differs = [a != b for a, b in zip(of_way, other, strict=True)]
            unlike.append(str(sum(differs)))
        rows.append((name, speed, ratio, *unlike))
    head = ("", "problems/s", "speed", *(f"unlike {name}" for name in solutions))
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
