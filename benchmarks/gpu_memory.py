"""Compares the memory that `xft plan` expects on a GPU with torch's peaks on the emulated GPU.

Each recipe is measured at its real size: a base of its shape whose weights are holes in sparse
files, two optimiser steps of each training, and one batch of an evaluation, in their own processes.
torch's allocator is real, values of large tensors are not computed (tests/emulated_gpu/README.md,
EMULATED_GPU_MOST_BYTES). `make test-gpu` builds the emulation.

There are two kinds of rows for a training. Full: each fills the window, but in padded batches one
of each batch is half as long. Varied: their lengths are log-normal, with a median of 350 tokens and
a deviation of 0.6 of the logarithm, cut at the window. An optimiser step has two forward passes, or
one if the recipe has one. The plan is for the same number of passes.

The card is the smallest that each training fits by the plan: with the highest figure, and the part
that the plan keeps free for gaps between tensors. So a training that runs through confirms that
figure. torch reserves more if the card has room, and gives it back if the card is full.

The prompts of an evaluation have as many tokens as the plan assumes. Its solutions have 8, because
each token takes seconds there. The plan is for as many.

A mixture that is larger than the machine's memory is mapped from its sparse file. Linux allows it
after `sysctl -w vm.overcommit_memory=1`.

What CUDA itself takes is not emulated. What the plan assumes for it is added to the peaks. The
peaks of several processes are those of the one with most.

Usage: python -m benchmarks.gpu_memory [RECIPE ...] [--rows full varied] [--trainings ...]
    [--evaluations base moe] [--single]
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.timing import markdown_table
from workflow_scripts import ffn, weighted_init
from xft.artifacts.artifact import companions, create_artifact, write_json
from xft.checkpoints.model_files import DTYPE_BYTES, FLOAT_NAMES, SINGLE_FILE
from xft.cli.step import to_flags
from xft.common.gpus import PEAKS, noted_peaks
from xft.common.system import torchrun
from xft.config.reading import complete, values_to_change
from xft.config.runs import overlaid, read_overlaid
from xft.config.sections import WorkflowConfig
from xft.config.steps import STEPS, TRAINING_SECTIONS
from xft.conversions.upcycle import upcycled_config
from xft.estimates.generation_memory import generation_memory
from xft.estimates.jobs import GIB, PROMPT_TOKENS, configured_job
from xft.estimates.memory_and_disk import CUDA, bytes_beside_torch, training_memory
from xft.estimates.model_sizes import Models, ModelTable, compute_table
from xft.estimates.planning import GAPS
from xft.estimates.rows import Lengths, sample_lengths

PROJECT = Path(__file__).parents[1]
FOLDERS = ("recipes", "experiments")
RECIPES = {path.stem: path for name in FOLDERS for path in PROJECT.joinpath(name).glob("*.yaml")}
EMBEDDED = PROJECT / "resources" / "base"  # whose tokenizer all bases get
BASES = tomllib.loads((PROJECT / "tests" / "estimates" / "bases.toml").read_text())
RUN = PROJECT / "tests" / "emulated_gpu" / "run"
ENVIRONMENT = {
    "EMULATED_GPU_MOST_BYTES": str(2**20),
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
    "HF_HUB_OFFLINE": "1",
}
CAPABILITIES = {"h100": "9.0", "rtx4090": "8.9"}
DEFAULT_GPU = "h100"
ONE_GPU = (
    "deepseek-coder-1.3b",
    "deepseek-coder-1.3b-lora",
    "deepseek-coder-6.7b-lora",
    "deepseek-coder-6.7b-lora-24gb",
    "qwen2.5-coder-0.5b",
    "qwen2.5-coder-0.5b-lora",
    "qwen2.5-coder-1.5b-1gpu",
    "smollm2-135m",
    "gemma-3-270m-cpu",
)
STEPS_OF = {section: step for step, section in TRAINING_SECTIONS.items()}
INPUTS = {"moe_sft": ("moe",), "sft": ("base",), "mixing": ("weighted", "moe", "ffn")}
EVALUATED = ("base", "moe")
NEW_TOKENS = 8  # of a solution
PASSES = 2  # of an optimiser step, at most
OPTIMISER_STEPS = 2
LAMBDA = 0.75
MEDIAN, DEVIATION = 350, 0.6  # of the varied rows
BATCHES = 8  # of rows, at least
FEWEST = 64  # tokens of a row: its prompt and some more
KINDS = ("full", "varied")
TEXT = "x = y + 1\n"


@dataclass(frozen=True)
class Case:
    """A recipe at its real size.

    name: of its file.
    config: with few steps.
    gpu: the one that the recipe names.
    folder: for its base, mixture and rows.
    """

    name: str
    config: WorkflowConfig
    gpu: str
    folder: Path

    @cached_property
    def models(self) -> Models:
        """The sizes of base and mixture. Writes the base's config.json."""
        file = self.folder / "config.json"
        file.write_text(json.dumps(base_config(self.config.base.model)))
        return Models(compute_table(file), self.config.moe)

    def make_inputs(self) -> None:
        """Make the inputs of all trainings, and both files of rows."""
        models = self.models
        make_sparse(self.folder / "base", "base", models.base, models.base.config)
        dtype = FLOAT_NAMES[models.base.dtype(models.base.names[0])]
        config = upcycled_config(models.base.config, self.config.moe, dtype)
        make_sparse(self.folder / "moe", "moe", models.mixture, config, self.config)
        place = {name: f"--{name}={self.folder / name}" for name in ("moe", "ffn")}
        ffn.main([place["moe"], f"--out={self.folder / 'ffn'}"])
        out = f"--out={self.folder / 'weighted'}"
        weighted_init.main([place["moe"], place["ffn"], f"--lam={LAMBDA}", out])

    def write_rows(self, section: str, kind: str) -> Path:
        """A file of rows for a training."""
        from transformers import AutoTokenizer

        options, length = getattr(self.config, section), self.config.data.max_length
        size = options.per_device_train_batch_size
        count = max(BATCHES * size * options.gradient_accumulation_steps, 64)
        lengths = np.full(count, length)
        if kind == "varied":
            drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), DEVIATION, count)
            lengths = np.clip(drawn, FEWEST, length).astype(int)
        elif options.batching != "packed" and size > 1:
            lengths[::size] //= 2
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
        ids = tokenizer(TEXT * length, add_special_tokens=False)["input_ids"]
        file = self.folder / f"{section}-{kind}.jsonl"
        prompt = self._prompt_tokens(file, tokenizer)
        texts = [tokenizer.decode(ids[: max(number - prompt, 1)]) for number in lengths]
        write_texts(file, texts)
        return file

    def _prompt_tokens(self, file: Path, tokenizer) -> int:
        """The tokens of a row besides those of its response."""
        write_texts(file, [TEXT])
        whole = self.lengths(file).tokens[0]
        return int(whole) - len(tokenizer(TEXT, add_special_tokens=False)["input_ids"])

    def lengths(self, rows: Path) -> Lengths:
        """The lengths of the rows in a file."""
        data = self.config.data.model_copy(update=DATA | {"train": str(rows), "revision": None})
        return sample_lengths(data, self.folder / "base")

    def planned(self, section: str, rows: Path, kind: str) -> int:
        """The bytes that the plan says: at most for full rows, else expected."""
        job = configured_job(self.config, section, on_gpu=True)
        if kind == "varied":
            job = job.with_rows(self.lengths(rows))
        return training_memory(self.models, job).peak

    def trained(self, section: str, kind: str) -> list[float]:
        """GiB of a training: allocated, reserved and planned, with what CUDA takes.

        Raises CalledProcessError if it does not fit the smallest card.
        """
        job = configured_job(self.config, section, on_gpu=True)
        rows = self.write_rows(section, kind)
        flags = self._flags(STEPS_OF[section])
        flags |= {name: self.folder / name for name in INPUTS[section]}
        flags |= {"data": rows, "max_length": self.config.data.max_length, **DATA}
        most = training_memory(self.models, job).peak
        beside = bytes_beside_torch(job)
        peaks = self._run(STEPS_OF[section], flags, smallest_card(most) - beside, job.processes)
        return [(peak + beside) / GIB for peak in peaks] + [self.planned(section, rows, kind) / GIB]

    def evaluated(self, model: str) -> list[float]:
        """The same of a batch of an evaluation of the base or the mixture."""
        options = self.config.evaluation
        flags = self._flags("eval") | {"model": self.folder / model, "prompt": "completion"}
        flags["dataset"] = self._write_problems(options.batch_size)
        planned = generation_memory(self.models, model == "moe", options)
        peaks = self._run("eval", flags, smallest_card(planned) - CUDA)
        return [(peak + CUDA) / GIB for peak in peaks] + [planned / GIB]

    def _flags(self, step: str) -> dict[str, object]:
        """The flags of a step that follow from the configuration."""
        values = STEPS[step].values(self.config).items()
        return {key.rpartition(".")[2]: value for key, value in values}

    def _write_problems(self, count: int) -> Path:
        """Problems that are alike, with prompts of PROMPT_TOKENS."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
        rest = len(tokenizer(PROMPT.format(""))["input_ids"])
        ids = tokenizer(TEXT * PROMPT_TOKENS, add_special_tokens=False)["input_ids"]
        text = tokenizer.decode(ids[: PROMPT_TOKENS - rest])
        problem = PROBLEM | {"prompt": PROMPT.format(text)}
        lines = [json.dumps(problem | {"task_id": f"Sum/{number}"}) for number in range(count)]
        file = self.folder / "problems.jsonl"
        file.write_text("\n".join(lines))
        return file

    def _run(self, step: str, flags: dict, room: float, processes: int = 1) -> list[float]:
        """torch's peaks in a step, allocated and reserved, in bytes: of the process with most.

        room: the memory of each device, in bytes.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            out = Path(name, "result.json" if step == "eval" else "out")
            options = shlex.split(to_flags(flags | {"gpus": 0, "out": out}))
            start = shlex.split(torchrun(processes, 1)) if processes > 1 else ["python"]
            words = [str(RUN), *start, "-m", f"workflow_scripts.{step}", *options]
            peaks = Path(name, "peaks")
            peaks.mkdir()
            device = {
                "EMULATED_GPUS": str(processes),
                "EMULATED_GPU_CAPABILITY": CAPABILITIES[self.gpu],
                "EMULATED_GPU_GIB": str(room / GIB),
            }
            environment = os.environ | ENVIRONMENT | device | {PEAKS: str(peaks)}
            subprocess.run(words, check=True, env=environment, cwd=PROJECT, stdout=sys.stderr)
            noted = noted_peaks(peaks)
        return [GIB * noted[f"gpu_{kind}_gib"] for kind in ("allocated", "reserved")]


def smallest_card(planned: int) -> float:
    """Bytes of the smallest card that a job fits by the plan."""
    return planned / (1 - GAPS)


DATA = {"response_column": "response", "deduplicate": "none", "template": "magicoder"}
PROMPT = 'def add(a, b):\n    """{}"""\n'
PROBLEM = {
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "contract": "",
    "base_input": [[2, 2]],
    "plus_input": [[3, 5]],
    "atol": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", nargs="*", help=f"Default: {', '.join(ONE_GPU)}.")
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=KINDS)
    trainings = tuple(INPUTS)
    parser.add_argument("--trainings", nargs="*", choices=trainings, default=trainings)
    parser.add_argument("--evaluations", nargs="*", choices=EVALUATED, default=EVALUATED)
    parser.add_argument("--single", action="store_true", help="One process in place of several.")
    parser.add_argument("--folder", type=Path, help="For sparse files. Default: /tmp.")
    args = parser.parse_args()
    table = []
    for name in args.recipes or ONE_GPU:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for row in rows_of(name, Path(folder), args):
                print(*row, flush=True)
                table.append(row)
    print(markdown_table(HEAD, table))


HEAD = ("recipe", "job", "rows", "allocated", "reserved", "plan", "plan / allocated")


def rows_of(name: str, folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The lines of a recipe in the table, in GiB, with what the plan assumes for CUDA."""
    config, gpu = read_recipe(name, args.single)
    case = Case(name, config, gpu, folder)
    case.make_inputs()
    for section, kind in product(args.trainings, args.rows):
        yield table_line(name, section, kind, case.trained(section, kind))
    for model in args.evaluations:
        yield table_line(name, f"eval of {model}", "prompts", case.evaluated(model))


def table_line(name: str, job: str, rows: str, sizes: list[float]) -> tuple[str, ...]:
    """sizes: allocated, reserved and planned."""
    allocated, _, planned = sizes
    return name, job, rows, *(f"{size:.2f}" for size in sizes), f"{planned / allocated:.2f}"


def read_recipe(name: str, single: bool) -> tuple[WorkflowConfig, str]:
    """The configuration of a recipe with few steps, and the GPU that its header names."""
    text = RECIPES[name].read_text()
    named = re.search(r"--configfile (.+)", text)[1].split()
    values, _ = read_overlaid([PROJECT / file for file in named])
    values = values_to_change(complete(values))
    changes: dict[str, dict] = {"evaluation": {"max_new_tokens": NEW_TOKENS, "limit": None}}
    for section in INPUTS:
        options = getattr(complete(values), section)
        passes = min(options.gradient_accumulation_steps, PASSES)
        changes[section] = {"max_steps": OPTIMISER_STEPS, "warmup_steps": 0}
        changes[section] |= {"gradient_accumulation_steps": passes}
        if single:
            changes[section] |= {"launch": "single", "processes": 1, "nodes": 1}
    gpu = re.search(r"--gpu (\w+)", text)
    return complete(overlaid(values, changes)), gpu[1] if gpu else DEFAULT_GPU


def base_config(model: str) -> dict:
    """The config.json of a base, with the special tokens of the embedded tokenizer."""
    name = next(name for name in BASES if name in model.lower())
    embedded = json.loads((EMBEDDED / "config.json").read_text())
    tokens = {key: embedded[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return BASES["deepseek-coder-1.3b"]["config"] | BASES[name]["config"] | tokens


def make_sparse(
    out: Path, kind: str, table: ModelTable, config: dict, made_by: WorkflowConfig | None = None
) -> None:
    """An artifact of a model whose weights are zeros that take no space.

    The SHA-256 of its weights is not computed. It is not compared either, as the file is large.
    """
    parameters = made_by.moe.model_dump() | {"seed": 0, "base": {}} if made_by else {}
    with create_artifact(out, kind, parameters) as draft:
        size = write_sparse(draft.path / SINGLE_FILE, table)
        draft.known_files[SINGLE_FILE] = {"size": size, "sha256": "0" * 64}
        write_json(draft.path / "config.json", config)
        for file in companions(EMBEDDED):
            (draft.path / file.name).write_bytes(file.read_bytes())


def write_sparse(file: Path, table: ModelTable) -> int:
    """A safetensors file with a header and a hole. Returns its size."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name in table.names:
        begin, dtype = end, table.dtype(name)
        end += table.size(name) * DTYPE_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": table.shape(name), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(opened.tell() + end)
        return opened.seek(0, os.SEEK_END)


def write_texts(file: Path, texts: list[str]) -> None:
    """Write rows with these responses."""
    rows = [{"instruction": "Add.", "response": text} for text in texts]
    file.write_text("\n".join(map(json.dumps, rows)))


if __name__ == "__main__":
    main()
