"""A working folder with inputs of the user's, and what a configuration over them wants."""

import json
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path

from problem_files import problem, write_problems

from xft.artifacts.artifact import ENTRY_FILE
from xft.config.runs import overlaid
from xft.config.steps import STEPS
from xft.dag.workflow_run import WorkflowRun
from xft.store.code import Code
from xft.store.file_hashes import FileHashCache

ROW = {"instruction": "Add.", "response": "a + b"}
CONFIG = {
    "base": {"model": "model"},
    "data": {"train": "rows.jsonl", "decontaminate_against": ["problems.jsonl"], "max_length": 64},
    "evaluation": {"models": ["base", "moe_sft", "dense"], "datasets": ["problems.jsonl"]}
    | {"max_new_tokens": 16},
}


class HashesOfCode(FileHashCache):
    """The cache of a store that a run has used: it holds the hashes of the code of all steps."""

    def __init__(self, file: Path | None = None):
        super().__init__(file)
        self._values = _of_code() | self._values


@cache
def _of_code() -> dict[str, list]:
    hashes = FileHashCache()
    code = Code(hashes)
    for step in STEPS:
        code.hashes(step)
    return hashes._values


def write_inputs(model: Path) -> None:
    """A model, rows, texts and problems in the current folder."""
    shutil.copytree(model, "model")
    Path("rows.jsonl").write_text(json.dumps(ROW) + "\n")
    write_problems(Path("problems.jsonl"), [problem("add", "+", "Own/0")])


def wants(**sections) -> WorkflowRun:
    """What the configuration with these keys laid over wants."""
    return WorkflowRun(overlaid(CONFIG, sections))


def begin(run: WorkflowRun) -> WorkflowRun:
    """Begin a run, which then gives the store to others."""
    run.begin()
    run.close()
    return run


def fill(run: WorkflowRun) -> None:
    """Stand-ins for all entries that a configuration wants."""
    run.store.open().close()
    for part in run.experiment.wanted:
        part.place.mkdir(parents=True, exist_ok=True)
        (part.entry / ENTRY_FILE).write_text(json.dumps({"recipe": asdict(part.recipe)}))
