"""A working folder with inputs of the user's, and what a configuration over them wants."""

import json
import shutil
from pathlib import Path

from problem_files import problem, write_problems

from xft.artifacts.artifact import ENTRY_FILE
from xft.config.runs import overlaid
from xft.dag.workflow_run import WorkflowRun

ROW = {"instruction": "Add.", "response": "a + b"}
CONFIG = {
    "base": {"model": "model"},
    "data": {"train": "rows.jsonl", "decontaminate_against": ["problems.jsonl"], "max_length": 64},
    "evaluation": {"models": ["base", "moe_sft", "dense"], "datasets": ["problems.jsonl"]}
    | {"max_new_tokens": 16},
}


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
        (part.entry / ENTRY_FILE).write_text("{}")
