"""Each configuration that comes along as a whole workflow, alone or over another one."""

import re
import shutil
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from damage import change_json
from documents import ROOT, links

from xft.config.runs import read_overlaid
from xft.dag.workflow_run import WorkflowRun
from xft.evaluation.forms import load_problems

FILES = {name: sorted((ROOT / name).glob("*.yaml")) for name in ("recipes", "experiments")}
CONFIGURATIONS = [ROOT / "config" / "config.yaml", *chain(*FILES.values())]
READ_ONCE = cache(load_problems)  # the sets, which many runs of a configuration name
OVER = re.compile(r"--configfile (\w+/.+)")  # of the command in a file's head


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, hashed_code) -> None:
    """A working folder with the embedded model, rows, and code that keys name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xft.dag.input_checks.load_problems", READ_ONCE)
    for name in ("resources", "examples"):
        Path(name).symlink_to(ROOT / name)


@pytest.mark.parametrize("folder", FILES)
def test_a_page_leads_to_each_file_of_its_folder(folder):
    linked = {link for link in links(ROOT / folder / "README.md") if "/" not in link}
    assert linked == {file.name for file in FILES[folder]}


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_is_a_whole_workflow(path):
    """With stand-ins for the model and the rows that it names."""
    command = OVER.search(path.read_text())
    values, _ = read_overlaid([*map(ROOT.joinpath, command[1].split())] if command else [path])
    model, rows = Path(values["base"]["model"]), Path(values["data"]["train"])
    if "revision" not in values["base"] and not model.exists():
        shutil.copytree("resources/base", model)
        change_json(model / "config.json", max_position_embeddings=2**14)  # as real models have
    if "revision" not in values["data"] and not rows.exists():
        rows.parent.mkdir(parents=True, exist_ok=True)
        row = '{"instruction": "a", "response": "b", "output": "b"}\n'
        rows.write_text(row * 20 * values.get("moe_sft", {}).get("warmup_steps", 50))
    run = WorkflowRun(values)
    asked = {model for one in run.runs for model in one.config.evaluation.models}
    assert {row.model.partition("/")[0] for row in run.experiment.rows} == asked
    assert {part.digest for part in run.to_make} <= run.jobs.keys()
