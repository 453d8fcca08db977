"""Compares the memory that `xft.tools.plan` expects with that of trainings on the CPU.

It runs some optimiser steps of steps 2 and 6 for several precisions and optimisers, each in its own
process. The rows fill the window, except one per batch, so that there is padding. The measured
memory is the peak of RssAnon of the whole process: the training, the libraries, and freed memory
that malloc keeps. The planned memory is the number that the plan prints: the training, and an
allowance for the rest.

Usage: python -m benchmarks.memory [MODEL] [--rows N] [--length N] [--steps N]
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.peak import observe
from benchmarks.timing import markdown_table
from workflow_scripts import base, ffn, moe, weighted_init
from xft.cli import running
from xft.config.sections import MoeConfig
from xft.estimates.activations import Batch
from xft.estimates.gpus import RUNTIME_ON_CPU
from xft.estimates.memory import Job, mixing_memory, tuning_memory
from xft.estimates.parameters import Models
from xft.estimates.tensors import read_table

EMBEDDED = Path(__file__).parents[1] / "resources" / "base"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
STEPS, BATCHES = 2, 4
# Step, precision, optimiser.
CASES = (
    *itertools.product(["moe_sft"], ["fp32", "bf16_pure"], ["adamw_torch", "adafactor"]),
    *itertools.product(["weighted_trained"], ["fp32", "bf16_pure"], ["adamw_torch"]),
)
# Without the second, DeepSpeed warns that it chose it.
ENVIRONMENT = running.ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", type=Path, default=EMBEDDED, help="A dense model.")
    parser.add_argument("--rows", type=int, default=32, help="Rows in a batch. Default: 32.")
    parser.add_argument("--length", type=int, default=384, help="Tokens in a row. Default: 384.")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"Default: {STEPS}.")
    args = parser.parse_args()
    os.environ |= ENVIRONMENT  # the processes inherit it
    batch = Batch(args.rows, args.length)
    models = models_of(args.model)
    print(f"{models.moe_total:,} parameters, {batch.rows} rows of {batch.length}")
    with tempfile.TemporaryDirectory() as name:
        folder = make_artifacts(args.model, Path(name), batch)
        rows = [
            row(case, planned(models, batch, case), measured(folder, batch, case, args.steps))
            for case in CASES
        ]
    header = ("step, precision, optimiser", "planned MiB", "measured MiB", "ratio")
    print(markdown_table(header, rows))


def row(case: tuple[str, str, str], plan: int, peak: int) -> tuple[str, ...]:
    return ", ".join(case), f"{plan / MIB:.0f}", f"{peak / MIB:.0f}", f"{plan / peak:.2f}"


def models_of(model: Path) -> Models:
    return Models(read_table(model), MoeConfig(**EXPERTS))


def planned(models: Models, batch: Batch, case: tuple[str, str, str]) -> int:
    """The planned bytes of a training's process."""
    step, precision, optimizer = case
    memory_of = {"moe_sft": tuning_memory, "weighted_trained": mixing_memory}[step]
    job = Job("single", 1, batch, 1, precision, optimizer, on_gpu=False)
    return memory_of(models, job).peak + RUNTIME_ON_CPU


def make_artifacts(model: Path, folder: Path, batch: Batch) -> Path:
    """Make all inputs of steps 2 and 6 in `folder`. Step 6 uses the untuned mixture."""
    place = {name: f"--{name}={folder / name}" for name in ("base", "moe", "ffn")}
    experts = [f"--{key.replace('_', '-')}={value}" for key, value in EXPERTS.items()]
    base.main([f"--model={model}", f"--out={folder / 'base'}"])
    moe.main([place["base"], f"--out={folder / 'moe'}", *experts])
    ffn.main([place["moe"], f"--out={folder / 'ffn'}"])
    out = f"--out={folder / 'weighted'}"
    weighted_init.main([place["moe"], place["ffn"], "--lam=0.75", out])
    write_rows(folder / "rows.jsonl", folder / "base", batch)
    return folder


def measured(folder: Path, batch: Batch, case: tuple[str, str, str], steps: int = STEPS) -> int:
    """The peak of a training's process, in bytes."""
    step, precision, optimizer = case
    inputs = {"moe_sft": ["moe"], "weighted_trained": ["weighted", "moe", "ffn"]}[step]
    words = [f"--{name}={folder / name}" for name in inputs]
    words += [f"--data={folder / 'rows.jsonl'}", f"--out={folder / step}", f"--max-steps={steps}"]
    words += [f"--max-length={batch.length}", f"--per-device-train-batch-size={batch.rows}"]
    words += [f"--precision={precision}", f"--optim={optimizer}", "--deduplicate=none"]
    return observe(partial(prepared_training, step, words)).whole


def write_rows(file: Path, model: Path, batch: Batch) -> None:
    """Write rows that are longer than the window. The first of each batch fills half of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "x = y + 1\n" * 2 * batch.length
    short = tokenizer(text, add_special_tokens=False)["input_ids"][: batch.length // 2]
    responses = [text, tokenizer.decode(short)]
    lines = [
        json.dumps({"instruction": "Add.", "response": responses[number % batch.rows == 0]})
        for number in range(BATCHES * batch.rows)
    ]
    file.write_text("\n".join(lines))


def prepared_training(step: str, words: list[str]) -> Callable[[], None]:
    return partial(import_module(f"workflow_scripts.{step}").main, words)


if __name__ == "__main__":
    main()
