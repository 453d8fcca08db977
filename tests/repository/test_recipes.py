"""Each configuration that comes along as a whole workflow, alone or over another one."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from xft.config.runs import read_overlaid
from xft.config.text import read_config
from xft.dag.run import WorkflowRun

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = [ROOT / "config" / "config.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
EMBEDDED = ROOT / "recipes" / "embedded-large.yaml"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    """A working folder with the embedded model and rows."""
    monkeypatch.chdir(tmp_path)
    Path("resources").symlink_to(ROOT / "resources")


def run_of(*files: Path) -> WorkflowRun:
    """The run of a configuration. There are stand-ins for the model and the rows that it names."""
    values, where = read_overlaid(files)
    model, rows = Path(values["base"]["model"]), Path(values["data"]["train"])
    if "revision" not in values["base"] and not model.exists():
        shutil.copytree("resources/base", model)
        settings = json.loads((model / "config.json").read_text())
        settings["max_position_embeddings"] = 2**14  # as real models have
        (model / "config.json").write_text(json.dumps(settings))
    if "revision" not in values["data"] and not rows.exists():
        rows.parent.mkdir(exist_ok=True)
        row = '{"instruction": "a", "response": "b", "output": "b"}\n'
        rows.write_text(row * 20_001)  # for any warm-up
    return WorkflowRun(values, where)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_is_a_whole_workflow(path):
    under = [] if "base" in read_config(path) else [EMBEDDED]
    run = run_of(*under, path)
    asked = {model for one in run.runs for model in one.config.evaluation.models}
    assert {row.model.partition("/")[0] for row in run.experiment.rows} == asked
    assert {part.digest for part in run.to_make} <= run.jobs.keys()


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("ablations", {"moe_sft": 22, "dense": 20, "sft": 2, "tokens": 1}),
        ("regimes", {"moe_sft": 10, "dense": 20, "sft": 20, "tokens": 2}),
        ("low_rank", {"moe_sft": 2, "dense": 4, "sft": 2, "eval": 9}),
        ("little_data", {"moe_sft": 16, "sft": 6, "weighted_trained": 18, "dense": 22, "heal": 4}),
    ],
)
def test_a_recipe_lies_over_another_config(name, jobs):
    run = run_of(EMBEDDED, ROOT / "recipes" / f"{name}.yaml")
    found = Counter(part.rule for part in run.to_make)
    assert {rule: found[rule] for rule in jobs} == jobs
