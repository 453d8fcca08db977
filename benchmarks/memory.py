"""The memory that `workflow_scripts.plan` expects of step 2 against what trainings take on the CPU.

Trains two steps for each precision and optimiser, each in a process of its own, on rows that fill
the window, but for one in as many as a batch has, so that there is padding. Memory is the peak of
RssAnon less what the imports hold. glibc's malloc keeps freed memory for later, which the kernel
counts; it is told to give it back (MALLOC_MMAP_THRESHOLD_), unless --keep-freed.

Usage: python -m benchmarks.memory [MODEL] [--rows N] [--length N] [--keep-freed]
"""

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from benchmarks.peak import peak_memory
from benchmarks.timing import markdown_table
from workflow_scripts import base, configuration, moe
from workflow_scripts.planning.activations import Batch
from workflow_scripts.planning.memory import Job, tuning_memory
from workflow_scripts.planning.parameters import Models
from workflow_scripts.planning.tensors import read_table

EMBEDDED = Path(__file__).parents[1] / "resources" / "base"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
STEPS = 2
CASES = tuple(itertools.product(("fp32", "bf16_pure"), ("adamw", "adafactor")))
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
QUIET = {"DS_ACCELERATOR": "cpu"}  # else DeepSpeed warns that it chose it
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
    parser.add_argument("--keep-freed", action="store_true", help="Leave malloc as it is.")
    args = parser.parse_args()
    os.environ |= QUIET if args.keep_freed else QUIET | GIVE_BACK  # the processes inherit it
    batch = Batch(args.rows, args.length)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(args.model, Path(folder), batch, CASES)
        models = models_of(args.model)
        print(f"{models.moe_total:,} parameters, {batch.rows} rows of {batch.length}")
        print(table(models, batch, measured))


def models_of(model: Path) -> Models:
    settings = {key: value.get("default") for key, value in configuration.properties("moe").items()}
    return Models(read_table(model), settings | EXPERTS)


def table(models: Models, batch: Batch, measured: Iterable[tuple[str, str, int]]) -> str:
    header = ("precision, optimiser", "planned MiB", "measured MiB", "ratio")
    rows = []
    for precision, optimizer, peak in measured:
        plan = planned(models, batch, precision, optimizer)
        cells = (f"{plan / MIB:.0f}", f"{peak / MIB:.0f}", f"{plan / peak:.2f}")
        rows.append((f"{precision}, {optimizer}", *cells))
    return markdown_table(header, rows)


def planned(models: Models, batch: Batch, precision: str, optimizer: str) -> int:
    """Bytes, without the libraries' own."""
    return tuning_memory(
        models, Job("single", 1, batch, 1, precision, optimizer, on_gpu=False)
    ).peak


def measure(
    model: Path, folder: Path, batch: Batch, cases: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str, int]]:
    """Precision, optimiser and peak memory in bytes of each case."""
    base.main(["--model", str(model), "--out", str(folder / "base")])
    experts = [f"--{key.replace('_', '-')}={value}" for key, value in EXPERTS.items()]
    moe.main(["--base", str(folder / "base"), "--out", str(folder / "moe"), *experts])
    rows = write_rows(folder / "rows.jsonl", folder / "base", batch)
    for precision, optimizer in cases:
        words = ["--moe", folder / "moe", "--data", rows, "--out", folder / "moe_sft"]
        words += ["--max-length", batch.length, "--per-device-batch-size", batch.rows]
        words += ["--precision", precision, "--optimizer", optimizer, "--max-steps", STEPS]
        yield precision, optimizer, peak_memory(partial(prepared_training, list(map(str, words))))


def write_rows(file: Path, model: Path, batch: Batch) -> Path:
    """Rows that overfill the window; the first of as many as a batch has fills half of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "x = y + 1\n" * 2 * batch.length
    short = tokenizer(text, add_special_tokens=False)["input_ids"][: batch.length // 2]
    responses = [text, tokenizer.decode(short)]
    lines = [
        json.dumps({"instruction": "Add.", "response": responses[number % batch.rows == 0]})
        for number in range(2 * STEPS * batch.rows)
    ]
    file.write_text("\n".join(lines))
    return file


def prepared_training(words: list[str]) -> Callable[[], None]:
    """A training, with all imported that it will import."""
    import deepspeed  # noqa: F401  the Trainer does
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import workflow_scripts.training.trainer  # noqa: F401
    from workflow_scripts import moe_sft

    return partial(moe_sft.main, words)


if __name__ == "__main__":
    main()
