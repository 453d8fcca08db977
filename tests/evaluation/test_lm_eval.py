"""Step `lm_eval`: what lm_eval measures, against plain transformers; what is refused; the table."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from workflow_scripts import lm_eval as step
from workflow_scripts import moe
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.evaluation import lm_eval_result

BASE = Path(__file__).parents[2] / "resources" / "base"
# Which goes on better: what follows a question, and the answer that is right.
ROWS = [
    {"question": f"def {name}_{number}(x):\n    return x", "choices": signs, "label": label}
    for number, (name, label) in enumerate([("add", 0), ("subtract", 1), ("double", 2)] * 4)
    for signs in [["+ 2", "- 3", "* 2"], ["* 7", "+ 1", "// 5"]]
]


def write_task(folder: Path, **changes) -> Path:
    """A task of lm_eval over ROWS, which are written beside it."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    task = {
        "task": "signs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(rows), "cache_dir": str(folder / "cache")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": metrics,
        "metadata": {"version": 3.0},
    }
    file = folder / "signs.yaml"
    file.write_text(yaml.safe_dump(task | changes))
    return file


def run(task, out, *flags, model=BASE):
    words = ["--model", model, "--tasks", task, "--out", out, "--threads", 1, *flags]
    step.main([str(word) for word in words])
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder with the task, the base model and its result, lm_eval/base/tasks.json. Read only."""
    folder = tmp_path_factory.mktemp("results")
    with create_artifact(folder / "base", "base", {}) as draft:
        shutil.copytree(BASE, draft.path, dirs_exist_ok=True)
    out = folder / "lm_eval" / "base" / "tasks.json"
    run(write_task(folder), out, "--batch-size", 5, model=folder / "base")
    return folder


@pytest.mark.ci
def test_result_and_manifest_say_what_was_done_and_not_where_or_when(results, tmp_path):
    first, again = results / "lm_eval" / "base" / "tasks.json", tmp_path / "again.json"
    task = results / "signs.yaml"
    result = run(task, again, "--batch-size", 5, model=results / "base")
    assert again.read_bytes() == first.read_bytes()
    assert result["versions"].keys() == {"torch", "transformers", "datasets", "lm_eval"}
    found = result["tasks"]["signs"]
    assert (found["version"], found["few_shot"], found["examples"]) == (3.0, 0, len(ROWS))
    share = found["metrics"]["acc"]["value"]
    spread = (share * (1 - share) / (len(ROWS) - 1)) ** 0.5
    assert 0 < share < 1 and found["metrics"]["acc"]["stderr"] == pytest.approx(spread)
    assert str(results) not in again.read_text().replace(str(results / "base"), "")

    manifest = read_manifest(manifest_path(again))
    settings = {"batch_size": 5, "limit": None, "threads": 1, "tasks": ["signs.yaml"]}
    assert manifest.kind == "lm_eval"
    assert manifest.parameters == result["settings"]
    assert manifest.parameters.items() >= settings.items()
    identity = read_manifest(manifest_path(results / "base")).id
    sha256 = hashlib.sha256(task.read_bytes()).hexdigest()
    assert manifest.inputs == {"model": identity, "signs.yaml": sha256}


@pytest.mark.ci
def test_a_mixture_is_measured_too(results, tmp_path):
    """Upcycled and not yet trained it computes what its base computes."""
    moe.main(["--base", str(results / "base"), "--out", str(tmp_path / "moe")])
    flags = ["--limit", len(ROWS)]
    result = run(results / "signs.yaml", tmp_path / "moe.json", *flags, model=tmp_path / "moe")
    of_base = json.loads((results / "lm_eval" / "base" / "tasks.json").read_text())
    assert result["tasks"] == of_base["tasks"]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_path": "nobody/no-such-data"}, r"nobody/no-such-data.* Nothing is fetched here"),
        ({"unsafe_code": True}, r"signs.* unsafe.* nothing that a model writes is run"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"lm_eval cannot measure \S+signs.yaml: .*{message}"):
        run(write_task(tmp_path, **changes), tmp_path / "r.json")


def test_lm_eval_s_keys_become_metrics():
    row = {
        **{"alias": "gsm8k", "sample_len": 8, "exact_match,strict-match": 0.25},
        **{"exact_match_stderr,strict-match": 0.1, "exact_match,flexible-extract": 0.5},
        **{"exact_match_stderr,flexible-extract": "N/A", "f1,none": float("nan")},
    }
    measured = {"results": {"gsm8k": row}, "versions": {"gsm8k": 3.0}, "n-shot": {"gsm8k": 5}}
    group = {"alias": "all", "acc,none": 0.5, "acc_stderr,none": 0.2}
    measured |= {"groups": {"all": group}, "n-samples": {"gsm8k": {"effective": 8}}}
    tasks = lm_eval_result.build_result(measured, {}, {}, {})["tasks"]
    assert tasks["gsm8k"]["metrics"] == {
        "exact_match (strict-match)": {"value": 0.25, "stderr": 0.1},
        "exact_match (flexible-extract)": {"value": 0.5, "stderr": None},
        "f1": {"value": None, "stderr": None},
    }
    assert tasks["all"]["metrics"] == {"acc": {"value": 0.5, "stderr": 0.2}}
    assert tasks["all"]["examples"] is None
