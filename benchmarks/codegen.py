"""Compares generation for an evaluation with EvalPlus's own `evalplus.codegen`.

- evalplus: its transformers backend, as `--backend hf --greedy --force-base-prompt` sets it. It
  takes one problem at a time;
- alone: ours, one problem at a time;
- ours: ours in batches.

All ways have the same model, problems, dtype and number of new tokens, and the problem's own text
as the prompt. Each way has its own stop sequences. The model is loaded before.

The ways take turns. It prints the problems per second of each, its speed and processor time
relative to EvalPlus, and how many programs are the same as EvalPlus's, after its `sanitize`.

Usage: python -m benchmarks.codegen [--model DIR] [--dataset FILE] [--limit N] [--repeats N]
"""

import argparse
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import redirect_stdout
from itertools import count
from operator import eq
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, logging

from benchmarks.timing import interleaved, markdown_table, relative_speed
from xft.data.prompt_templates import COMPLETION
from xft.data.tokenizers import load_tokenizer
from xft.evaluation.forms import load_problems
from xft.evaluation.generation import generate
from xft.evaluation.prompts import task_prompts


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codegen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("resources/base"))
    parser.add_argument("--dataset", type=Path, default=Path("resources/problems.jsonl"))
    parser.add_argument("--limit", type=int, default=16, help="Problems. Default: 16.")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="Default: 256.")
    parser.add_argument("--batch-size", type=int, default=16, help="Of ours. Default: 16.")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--repeats", type=int, default=2, help="Rounds. Default: 2.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    problems = load_problems(str(args.dataset)).first(args.limit)
    with tempfile.TemporaryDirectory() as name:
        ways = {
            "evalplus": EvalPlus(problems, args, Path(name)),
            "alone": Ours(problems, args, batch_size=1),
            "ours": Ours(problems, args, args.batch_size),
        }
        cases = {name: way.run for name, way in ways.items()}
        seconds = interleaved(cases, args.repeats, warmup=0)
    print(f"{len(problems.problems)} problems, {args.max_new_tokens} new tokens at most,", end=" ")
    print(f"{args.dtype}, {args.threads} threads, {args.repeats} rounds\n")
    rows = []
    for name, way in ways.items():
        speed = args.repeats * len(way.programs) / sum(seconds[name])
        ratio = relative_speed(seconds, name, "evalplus")
        effort = way.processor / ways["evalplus"].processor
        same = sum(map(eq, way.sanitized(problems), ways["evalplus"].sanitized(problems)))
        rows.append((name, f"{speed:.3f}", f"{ratio:.2f}", f"{effort:.3f}", str(same)))
    head = ("", "problems/s", "speed", "processor time", "same programs")
    print(markdown_table(head, rows))


class Way(ABC):
    """programs: one for each problem, of the last round. processor: seconds of all rounds."""

    def __init__(self):
        self.programs: list[str] = []
        self.processor = 0.0

    def run(self) -> None:
        start = time.process_time()
        self.programs = self.generate()
        self.processor += time.process_time() - start

    def sanitized(self, problems) -> list[str]:
        from evalplus.sanitize import sanitize

        pairs = zip(self.programs, problems.problems, strict=True)
        return [sanitize(program, problem.entry_point) for program, problem in pairs]

    @abstractmethod
    def generate(self) -> list[str]: ...


class EvalPlus(Way):
    def __init__(self, problems, args, folder: Path):
        super().__init__()
        data = folder / "problems.jsonl"
        lines = [json.dumps(problem.model_dump()) for problem in problems.problems]
        data.write_text("\n".join(lines))
        os.environ["HUMANEVAL_OVERRIDE_PATH"] = str(data)  # it reads that when it is imported
        from evalplus.provider import make_model

        self.targets = (folder / f"{number}.jsonl" for number in count())
        self.log = (folder / "log").open("w")
        with redirect_stdout(self.log):
            self.decoder = make_model(
                str(args.model), "hf", "humaneval", force_base_prompt=True, dtype=args.dtype
            )
        self.decoder.max_new_tokens = args.max_new_tokens

    def generate(self) -> list[str]:
        from evalplus.codegen import codegen

        target = next(self.targets)
        # Each problem adds its stop sequences to those of all problems before it, here of a round.
        vars(self.decoder.model).pop("_get_stopping_criteria", None)
        with redirect_stdout(self.log):
            codegen(str(target), self.decoder, "humaneval", greedy=True)
        return [json.loads(line)["solution"] for line in target.open()]


class Ours(Way):
    def __init__(self, problems, args, batch_size: int):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
        self.tokenizer = load_tokenizer(args.model)
        self.prompts = task_prompts(problems, COMPLETION)
        self.limits = {"max_new_tokens": args.max_new_tokens, "batch_size": batch_size}

    def generate(self) -> list[str]:
        completions = dict(generate(self.model, self.tokenizer, self.prompts, **self.limits))
        return [prompt.solution(completions[n].text) for n, prompt in enumerate(self.prompts)]


if __name__ == "__main__":
    main()
