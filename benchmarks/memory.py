"""Compares the memory that `xft plan` expects with that of trainings on the CPU.

It runs some optimiser steps of steps 2 and 6 for several precisions, each in its own process. The
rows fill the window, except one per batch, so that there is padding; with --data they are those of
a file, padded and packed. The measured memory is the peak of RssAnon of the whole process: the
training, the libraries, and freed memory that malloc keeps. The planned memory is the number that
the plan prints: expected, and at most.

Usage: python -m benchmarks.memory [MODEL] [--rows N] [--length N] [--steps N] [--data FILE]
"""

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.peak import observe
from benchmarks.timing import markdown_table
from workflow_scripts import base, ffn, moe, weighted_init
from xft.cli import running
from xft.cli.step import to_flags
from xft.config.reading import complete
from xft.config.sections import DataConfig, MoeConfig
from xft.estimates.jobs import configured_job
from xft.estimates.memory_and_disk import training_memory
from xft.estimates.model_sizes import Models, read_table
from xft.estimates.rows import Lengths, sample_lengths

EMBEDDED = Path(__file__).parents[1] / "resources" / "base"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
STEPS, BATCHES = 2, 4
# Sections of the configuration, each with some of its keys.
CASES = (
    *(("moe_sft", {"precision": name}) for name in ("fp32", "bf16", "bf16_pure")),
    ("moe_sft", {"precision": "fp32", "activation_checkpointing": True}),
    ("moe_sft", {"precision": "bf16", "activation_checkpointing": True}),
    ("moe_sft", {"precision": "bf16_pure", "optim": "adafactor"}),
    *(("mixing", {"precision": name}) for name in ("fp32", "bf16", "bf16_pure")),
)
# The same for rows of a file.
CASES_OF_ROWS = tuple(
    (section, {"precision": "fp32", "batching": batching})
    for section in ("moe_sft", "mixing")
    for batching in ("padded", "by_length", "packed")
)
# Of each section the step and its inputs.
STEP_OF = {
    "moe_sft": ("moe_sft", ["moe"]),
    "mixing": ("weighted_trained", ["weighted", "moe", "ffn"]),
}
# Without the second, DeepSpeed warns that it chose it.
ENVIRONMENT = running.ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
MIB = 2**20
NO_DATA = {"train": "x", "response_column": "response"}  # rows that fill the window


class Batch(NamedTuple):
    rows: int
    length: int
    steps: int = STEPS
    data: dict = NO_DATA


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
    parser.add_argument("--data", type=Path, help="A file of rows, with --response-column.")
    parser.add_argument("--response-column", default="response", help="Default: response.")
    args = parser.parse_args()
    os.environ |= ENVIRONMENT  # the processes inherit it
    data = NO_DATA | {"response_column": args.response_column}
    data |= {"train": str(args.data)} if args.data else {}
    batch = Batch(args.rows, args.length, args.steps, data)
    lengths = None
    if args.data:
        lengths = sample_lengths(DataConfig(**data, max_length=args.length), args.model)
        print(f"rows have {lengths.tokens.mean():.0f} tokens on average")
    models = models_of(args.model)
    print(f"{models.moe_total:,} parameters, {batch.rows} rows of {batch.length}")
    with tempfile.TemporaryDirectory() as name:
        folder = make_artifacts(args.model, Path(name), batch)
        rows = [
            row(*case, planned(models, batch, lengths, *case), measured(folder, batch, *case))
            for case in (CASES_OF_ROWS if args.data else CASES)
        ]
    head = ("training", "expected MiB", "at most MiB", "measured MiB", "expected / measured")
    print(markdown_table(head, rows))


def row(section: str, keys: dict, plans: list[int], peak: int) -> tuple[str, ...]:
    sizes = (f"{size / MIB:.0f}" for size in (*plans, peak))
    return f"{section} {to_flags(keys)}", *sizes, f"{plans[0] / peak:.2f}"


def models_of(model: Path) -> Models:
    return Models(read_table(model), MoeConfig(**EXPERTS))


def planned(
    models: Models, batch: Batch, lengths: Lengths | None, section: str, keys: dict
) -> list[int]:
    """The planned bytes of a training's process: expected, and at most."""
    sections = {"base": {"model": "x"}, "data": {"train": "x", "max_length": batch.length}}
    sections[section] = keys | {"per_device_train_batch_size": batch.rows}
    sections[section]["max_steps"] = batch.steps
    job = configured_job(complete(sections), section)
    expected = training_memory(models, job.with_rows(lengths))
    most = training_memory(models, job)
    return [expected.peak, most.peak]


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


def measured(folder: Path, batch: Batch, section: str, keys: dict) -> int:
    """The peak of a training's process, in bytes."""
    step, inputs = STEP_OF[section]
    flags = {name: folder / name for name in inputs} | keys
    rows = folder / "rows.jsonl" if batch.data == NO_DATA else batch.data["train"]
    flags |= {"data": rows, "response_column": batch.data["response_column"]}
    flags |= {"max_steps": batch.steps, "deduplicate": "none"}
    flags |= {"max_length": batch.length, "per_device_train_batch_size": batch.rows}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        words = shlex.split(to_flags(flags | {"out": Path(out, step)}))
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
