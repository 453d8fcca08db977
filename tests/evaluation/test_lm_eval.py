"""Step `lm_eval`: what lm_eval measures, against plain transformers; what is refused; the table."""

import hashlib
import json
import signal
from pathlib import Path

import pytest
import yaml
from endings import end_by

from workflow_scripts import lm_eval as step
from workflow_scripts import moe
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common import optional
from xft.common.errors import UserError
from xft.evaluation import lm_eval_result
from xft.tools import verify

BASE = Path(__file__).parents[2] / "resources" / "base"
# Which goes on better: what follows a question, and the answer that is right.
ROWS = [
    {"question": f"def {name}_{number}(x):\n    return x", "choices": signs, "label": label}
    for number, (name, label) in enumerate([("add", 0), ("subtract", 1), ("double", 2)] * 4)
    for signs in [["+ 2", "- 3", "* 2"], ["* 7", "+ 1", "// 5"]]
]


def needs_lm_eval(test):
    missing = not optional.installed("lm_eval")
    return pytest.mark.ci(pytest.mark.skipif(missing, reason="needs the package lm_eval")(test))


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
    """A folder with the task and the base model's result, lm_eval/base/tasks.json. Read only."""
    folder = tmp_path_factory.mktemp("results")
    run(write_task(folder), folder / "lm_eval" / "base" / "tasks.json", "--batch-size", 5)
    return folder


def accuracy(model, tokenizer, rows) -> float:
    """The share of rows whose right choice has the highest probability."""
    import torch

    def log_probability(question: str, choice: str) -> float:
        start = tokenizer(question)["input_ids"]
        ids = tokenizer(f"{question} {choice}")["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(scores[i - 1, ids[i]].item() for i in range(len(start), len(ids)))

    right = [
        max(range(3), key=lambda i: log_probability(row["question"], row["choices"][i]))
        == row["label"]
        for row in rows
    ]
    return sum(right) / len(right)


@needs_lm_eval
def test_it_measures_what_plain_transformers_gives(results):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        kind.from_pretrained(BASE) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    expected = accuracy(model.float(), tokenizer, ROWS)
    assert 0 < expected < 1

    result = json.loads((results / "lm_eval" / "base" / "tasks.json").read_text())
    task = result["tasks"]["signs"]
    assert task["metrics"]["acc"]["value"] == pytest.approx(expected)
    spread = (expected * (1 - expected) / (len(ROWS) - 1)) ** 0.5
    assert task["metrics"]["acc"]["stderr"] == pytest.approx(spread)
    assert task["metrics"].keys() == {"acc", "acc_norm"}
    assert (task["version"], task["few_shot"], task["examples"]) == (3.0, 0, len(ROWS))


@needs_lm_eval
def test_the_result_says_what_was_done_and_not_where_or_when(results, tmp_path):
    first = results / "lm_eval" / "base" / "tasks.json"
    again = tmp_path / "again.json"
    result = run(results / "signs.yaml", again, "--batch-size", 5)

    assert again.read_bytes() == first.read_bytes()
    assert result["settings"]["tasks"] == ["signs.yaml"]
    assert result["settings"]["batch_size"] == 5
    assert result["versions"].keys() == {"torch", "transformers", "datasets", "lm_eval"}
    assert str(results) not in again.read_text()
    assert verify.main([str(tmp_path), "--full"]) is None


@needs_lm_eval
def test_the_manifest_says_what_the_result_was_made_from(results, tmp_path):
    with create_artifact(tmp_path / "base", "base", {}) as draft:
        for file in BASE.iterdir():
            (draft.path / file.name).write_bytes(file.read_bytes())
    task, out = results / "signs.yaml", tmp_path / "r.json"
    run(task, out, "--batch-size", 5, "--limit", 2, model=tmp_path / "base")

    manifest = read_manifest(manifest_path(out))
    assert manifest.kind == "lm_eval"
    settings = {"batch_size": 5, "limit": 2, "threads": 1, "tasks": ["signs.yaml"]}
    assert manifest.parameters.items() >= settings.items()
    assert manifest.inputs == {
        "model": read_manifest(manifest_path(tmp_path / "base")).id,
        "signs.yaml": hashlib.sha256(task.read_bytes()).hexdigest(),
    }


def test_two_files_of_tasks_with_one_name_are_refused(tmp_path):
    """The result and its manifest name a task's file without its folder."""
    files = [tmp_path / folder / "signs.yaml" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.touch()
    words = ["--model", "m", "--tasks", *files, "--out", tmp_path / "r.json"]
    with pytest.raises(UserError, match=r"two tasks are files with the name signs\.yaml"):
        step.main([str(word) for word in words])


@needs_lm_eval
def test_a_mixture_is_measured_too(results, tmp_path):
    """Upcycled and not yet trained it computes what its base computes."""
    with create_artifact(tmp_path / "base", "base", {}) as draft:
        for file in BASE.iterdir():
            (draft.path / file.name).write_bytes(file.read_bytes())
    moe.main(["--base", str(tmp_path / "base"), "--out", str(tmp_path / "moe")])
    result = run(results / "signs.yaml", tmp_path / "moe.json", model=tmp_path / "moe")

    of_base = json.loads((results / "lm_eval" / "base" / "tasks.json").read_text())
    assert result["tasks"] == of_base["tasks"]
    assert result["model"]["id"]


@needs_lm_eval
def test_sigterm_ends_the_measurement_without_a_result(results, tmp_path, fork_server):
    out = tmp_path / "lm_eval" / "base" / "tasks.json"
    words = ["--model", BASE, "--tasks", results / "signs.yaml", "--out", out, "--threads", 1]
    end_by(signal.SIGTERM, "lm_eval", "lm_eval.simple_evaluate", words)
    assert not out.parent.exists()


@needs_lm_eval
def test_limit_takes_the_first_examples(results, tmp_path):
    result = run(results / "signs.yaml", tmp_path / "r.json", "--limit", 4)
    assert result["tasks"]["signs"]["examples"] == 4


@needs_lm_eval
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_path": "nobody/no-such-data"}, r"nobody/no-such-data.* Nothing is fetched here"),
        ({"unsafe_code": True}, r"signs.* unsafe.* nothing that a model writes is run"),
        ({"no_such_key": 1}, r"no_such_key"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"lm_eval cannot measure \S+signs.yaml: .*{message}"):
        run(write_task(tmp_path, **changes), tmp_path / "r.json")


@needs_lm_eval
def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot measure no_such_task: .*`lm_eval ls tasks` lists"):
        run("no_such_task", tmp_path / "r.json")


def test_without_lm_eval_it_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setitem(optional.PACKAGES, "lm_eval", ("no-such-package",))
    with pytest.raises(UserError, match=r"^lm_eval needs the package no-such-package.* -m pip "):
        run("arc_easy", tmp_path / "r.json", model="nowhere")


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


def test_another_result_is_refused(tmp_path):
    (tmp_path / "eval.json").write_text('{"format": 2, "pass@1": {}}')
    with pytest.raises(UserError, match=r"eval\.json is no result of step lm_eval"):
        lm_eval_result.read(tmp_path / "eval.json")
