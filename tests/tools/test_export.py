"""`xft export`: other software reads what it writes."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from evalplus.data.utils import load_solutions
from evaluations import write_evaluation
from huggingface_hub import ModelCard
from report_folders import write_results

from xft.common.errors import UserError
from xft.tools import export
from xft.tools.export import Evaluation, _rows_of, _values


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Callable (form): the folder and the files of an export of a run."""

    def exported(form: str) -> tuple[Path, set[str]]:
        out = tmp_path_factory.mktemp("exported") / form
        export.main([str(finished.results), "--to", form, "--out", str(out)])
        files = [file.relative_to(out) for file in out.rglob("*.*") if file.is_file()]
        return out, {file.as_posix() for file in files}

    return exported


def result_of(finished, model: str) -> dict:
    return json.loads((finished.results / "eval" / model / "problems.json").read_text())


PASSES = {False: "failed", True: "passed"}
MODELS = ("base", "moe_sft", "dense/lam~0.75")


def test_evalplus_reads_the_solutions(exported, finished):
    out, files = exported("evalplus")
    assert files == {f"{model}/problems/samples.jsonl" for model in MODELS}
    for file in files:
        rows = list(load_solutions(str(out / file)))
        problems = result_of(finished, file.removesuffix("/problems/samples.jsonl"))["problems"]
        assert [row["task_id"] for row in rows] == [row["task_id"] for row in problems]
        assert all(row["solution"].startswith("def ") for row in rows)


def test_the_hub_s_cards_have_the_results_and_the_models_keep_theirs(exported, finished):
    out, files = exported("model-card")
    assert files == {f"{model}/README.md" for model in MODELS[1:]}  # not the base's
    for file in files:
        given, card = (ModelCard.load(folder / file) for folder in (finished.results, out))
        head = "- instructions: "
        named = given.text.replace(head, f"{head}resources/instructions.jsonl; ")
        assert given.data.eval_results is None and given.text != named == card.text
        scores = result_of(finished, str(Path(file).parent))["pass@1"]
        assert [value.metric_value for value in card.data.eval_results] == [*scores.values()]


def test_a_card_names_the_rows_of_the_model_s_own_run(finished_copy):
    file = finished_copy.results / "config.yaml"
    config = yaml.safe_load(file.read_text()) | {"variants": {"a": {"data": {"train": "other"}}}}
    file.write_text(yaml.safe_dump(config))
    assert _rows_of(finished_copy.results, "dense/data.train~other/lam~0.75") == ["other"]
    assert _rows_of(finished_copy.results, "dense/lam~0.75") == [config["data"]["train"]]


def test_a_problem_in_several_languages_counts_once_in_an_interval(tmp_path):
    """Copies of a problem do not make its interval narrower."""
    solved = [(number % 3 > 0, number % 2 > 0) for number in range(20)]  # of two samples

    def names(copies: int, units: bool) -> list[str]:
        content = json.loads(write_evaluation(tmp_path / "r.json", base=9, plus=9).read_text())
        content["problems"] = [
            {"task_id": f"{number}/{copy}", "base": PASSES[base], "plus": PASSES[plus]}
            | ({"unit": str(number)} if units else {})
            for number, samples in enumerate(solved)
            for copy in range(copies)
            for base, plus in (samples, reversed(samples))
        ]
        return [value.metric_name for value in _values(Evaluation(tmp_path, "m", content, []))]

    once = names(1, units=False)
    assert all("95% interval" in name for name in once)
    assert names(3, units=True) == once
    assert names(3, units=False) != once


def test_a_program_of_tests_is_nothing_for_evalplus(tmp_path):
    results, form = tmp_path / "results", {"form": "programs", "extra_tests": False}
    write_results(results, {"base": 5}, about=form)
    with pytest.raises(UserError, match="no finished evaluation that --to evalplus takes"):
        export.main([str(results), "--to", "evalplus", "--out", str(tmp_path / "new")])


def test_what_an_unfinished_run_lacks_is_told(tmp_path, capsys):
    results, words = tmp_path / "results", ["--to", "evalplus", "--out", str(tmp_path / "new")]
    write_results(results, {"base": 5, "sft": 6})
    (results / "eval/sft/own.json").unlink()
    export.main([str(results), *words])
    lacking = "Not finished, and left out: sft on own\n"
    assert capsys.readouterr().err == lacking
    (results / "eval/base/own.json").unlink()
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(UserError, match="no finished evaluation that --to evalplus takes"):
        export.main([str(results), *words])
    assert capsys.readouterr().err.splitlines()[1:] == [lacking.rstrip()]
