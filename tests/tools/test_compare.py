"""`xft compare`: its figures are those of closed forms, from files of either form."""

import json
from pathlib import Path

import pytest
from evaluations import write_evaluation
from report_folders import Runs

from xft.common.errors import UserError
from xft.reporting.comparisons import OF_VARIANTS, difference_rows, quantities
from xft.reporting.names import model_text
from xft.reporting.run_table import read_runs
from xft.reporting.summaries import Summary
from xft.reporting.variants import answer_lines
from xft.tools import compare

WORDS = {True: "pass", False: "fail"}


def write_evalplus(file, base, plus=None, version="0", order=1):
    """A file of evalplus.evaluate. base, plus: what is solved. order: -1 for the reverse."""
    solved = [{"base_status": WORDS[bool(value)], "plus_status": plus} for value in base]
    rows = {f"HumanEval/{number}": [row] for number, row in enumerate(solved)}
    file.write_text(json.dumps({"hash": version, "eval": dict([*rows.items()][::order])}))
    return str(file)


def drop_extra_tests(file: str) -> None:
    """Let the first problem have no results of extra tests."""
    content = json.loads(Path(file).read_text())
    content["eval"]["HumanEval/0"][0]["plus_status"] = None
    Path(file).write_text(json.dumps(content))


def told(capsys, *files) -> tuple[str, dict[tuple, dict]]:
    """The sentences, and the rows of differences by the models."""
    compare.main([*map(str, files)])
    verdict, _, table = capsys.readouterr().out.split("\n\n")
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line[0] == "|"]
    heads, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return verdict, {(row[0], row[1]): dict(zip(heads, row, strict=True)) for row in rows}


def test_all_pairs_are_compared_and_corrected_for(tmp_path, capsys):
    """p = 2 / 2^k, if one model alone solves k problems: 6, 5 and 1 of them.

    A difference of d needs (2.39 + 0.84)^2 (1 / d - 1) problems, and 7 that differ of 2% are 350.
    """
    models, files = ["base", "dense/lam~0.5", "dense/lam~1"], []
    for model, n, order in zip(models, (40, 41, 46), (1, -1, 1), strict=True):
        (file := tmp_path / model / "eval.json").parent.mkdir(parents=True)
        files.append(write_evalplus(file, [i < n for i in range(164)], "pass", order=order))
    verdict, rows = told(capsys, *reversed(files))
    models = [model_text(model) for model in models]
    shown = ("difference", "p, Holm", "significant", "problems needed")
    assert {pair: tuple(row[name] for name in shown) for pair, row in rows.items()} == {
        (models[2], models[0]): ("+3.7", "0.094", "no", "280"),
        (models[2], models[1]): ("+3.0", "0.125", "no", "330"),
        (models[1], models[0]): ("+0.6", "1.000", "no", "350"),
    }
    assert f" more problems than {models[0]} and {models[1]}.\n" in verdict


def test_files_of_both_forms_give_the_same_and_the_best_one_is_taken(tmp_path, capsys):
    names = {"count": 40, "families": ["HumanEval"]}
    ours = [write_evaluation(tmp_path / f"{n}.json", base=n, plus=n, **names) for n in (5, 35)]
    solved = {tmp_path / f"{n}-theirs.json": [i < n for i in range(40)] for n in (5, 35)}
    theirs = [write_evalplus(file, base, "pass") for file, base in solved.items()]
    tables = []
    for low, high in ((ours[0], theirs[1]), (theirs[0], ours[1]), ours, theirs):
        verdict, rows = told(capsys, high, low)
        said = f"{Path(high).name}: it solves significantly more problems than {Path(low).name}"
        assert verdict.startswith(f"- Take {said}")
        tables += [[*row.values()][3:] for row in rows.values()]
    assert tables == [tables[0]] * 4 and tables[0][0] == "+75.0"


PATTERN = "{name}_s{seed}_eval_results.json"


def write_seeds(folder, solved: dict[str, list[int]]) -> list[str]:
    """A file for each seed of each model, in which so many problems of 100 are solved."""
    return [
        write_evalplus(
            folder / f"{name}_s{seed}_eval_results.json", [i < n for i in range(100)], "pass"
        )
        for name, counts in solved.items()
        for seed, n in enumerate(counts, 1)
    ]


def test_models_are_compared_with_a_control_as_variants_are(tmp_path, capsys):
    """Over three seeds, with the sentences and the figures of a report about variants."""
    solved = {"late": [60, 62, 61], "plain": [40, 41, 42], "idle": [40, 41, 42]}
    files = write_seeds(tmp_path, solved)
    verdict, rows = told(capsys, *files, "--seeds", PATTERN, "--control", "plain")
    conclusions = [line for line in verdict.splitlines() if line.startswith("- ")]
    assert conclusions == [
        "- late against plain: better in pass@1.",
        "- idle against plain: the same results.",
    ]
    assert "  - the same pass@1 on all 100 problems." in verdict
    runs = Runs(tmp_path / "results")
    for name, counts in solved.items():
        variant = "" if name == "plain" else name
        for seed, count in enumerate(counts, 1):
            runs.add("moe_sft", count, variant=variant, seed=seed)
    runs.summarise()
    summary = Summary(read_runs(runs.root / "runs.csv"))
    (figures, *_), *_ = [reasons for _, reasons in answer_lines(summary.answers)]
    assert f"  - {figures.removeprefix('moe_sft: ')}\n" in verdict
    assert [*rows] == [("late", "plain"), ("idle", "plain")]
    of_report = next(difference_rows(*next(quantities(summary.comparisons, OF_VARIANTS))))
    same = ("seeds", "difference", "95% interval", "p", "significant")
    of_late = rows["late", "plain"]
    assert {key: of_late[key] for key in same} == {key: of_report[key] for key in same}


def test_a_control_may_be_a_file_and_seeds_need_none(tmp_path, capsys):
    files = write_seeds(tmp_path, {"late": [60], "plain": [40], "more": [62]})
    verdict, rows = told(capsys, *files, "--control", files[1])
    names = [Path(file).name for file in files]
    assert [*rows] == [(names[0], names[1]), (names[2], names[1])]
    assert "--seeds compares methods" in verdict and "xft plan" not in verdict
    more = write_seeds(tmp_path, {"late": [60, 61], "plain": [40, 45]})
    verdict, rows = told(capsys, *more, "--seeds", PATTERN)
    assert verdict.startswith("- Take late") and [*rows] == [("late", "plain")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--control", "base.json"], r"--control base\.json: no model has this name\. Name one of"),
        (["--seeds", PATTERN, "--control", "c"], "Name one of a and b, or add"),
        (["--seeds", "{name}.json"], r"must contain \{name\} and \{seed\} once each"),
        (["--seeds", "{name}-{seed}.json"], r"a_s1_eval_results\.json does not fit --seeds"),
        (["--seeds", "s{seed}_{name}.json"], "does not fit --seeds"),
    ],
)
def test_a_wrong_control_or_pattern_is_told(tmp_path, words, message):
    files = write_seeds(tmp_path, {"a": [1, 2], "b": [3, 4]})
    with pytest.raises(UserError, match=message):
        compare.main([*files, *words])


def test_seeds_that_do_not_pair_are_told(tmp_path):
    files = write_seeds(tmp_path, {"a": [1, 2], "b": [3]})
    said = "the seeds do not pair: a has 1 and 2, and b has 1. Name files of the same"
    with pytest.raises(UserError, match=said):
        compare.main([*files, "--seeds", PATTERN])
    with pytest.raises(UserError, match="nothing to compare"):
        compare.main([*files[:2], "--seeds", PATTERN])
    (tmp_path / "other").mkdir()
    again = write_seeds(tmp_path / "other", {"a": [1]})
    with pytest.raises(UserError, match=r"are both seed 1 of a\. Let \{name\} in --seeds"):
        compare.main([*files, *again, "--seeds", PATTERN])


def of_step(**changes):
    """Writes a result of step eval with two problems, and changes parts of it."""

    def write(file):
        write_evaluation(file, base=1, plus=1, count=2, families=["HumanEval"])
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return write


HALF = chr(0xD800)  # of a surrogate pair: no text


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "second.json is missing"),
        (lambda file: file.write_text('{"format": 1}'), "no result of step eval"),
        (lambda file: file.write_text('{"hash": "0", "eval": '), "second.json is not valid JSON"),
        (lambda file: file.write_text("[1]"), "does not hold a JSON object"),
        (
            lambda file: file.write_text('{"hash": "0", "eval": {"HumanEval/0": ["pass"]}}'),
            "not what evalplus.evaluate writes",
        ),
        (lambda file: file.write_text('{"eval": {"A/0": []}, "hash": ""}'), "no samples of A/0"),
        (lambda file: file.write_text('{"eval": {}, "hash": ""}'), "second.json has no problems"),
        (lambda file: file.write_text('{"eval": [1], "hash": ""}'), "evalplus.evaluate writes"),
        (of_step(problems=[]), "second.json has no problems"),
        (of_step(problems=None), "second.json is not what step eval writes"),
        (
            of_step(problems=[{"task_id": 1, "base": "passed", "plus": "passed"}]),
            "step eval writes",
        ),
        (of_step(problems=[{"task_id": ["x"]}]), "step eval writes"),
        (of_step(problems=[{"task_id": HALF, "base": "", "plus": ""}]), "step eval writes.*surrog"),
        (of_step(dataset="HumanEval"), "step eval writes"),
        (lambda file: write_evalplus(file, [1, 0], "pass", version="1"), "versions .*'0' and '1'"),
        (lambda file: drop_extra_tests(write_evalplus(file, [1, 0], "pass")), "extra tests"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(tmp_path, write, message):
    first = write_evalplus(tmp_path / "first.json", [1, 0], "pass")
    with pytest.raises(UserError, match="nothing to compare"):
        compare.main([first, first])
    write(tmp_path / "second.json")
    with pytest.raises(UserError, match=message) as caught:
        compare.main([first, str(tmp_path / "second.json")])
    assert "\n" not in str(caught.value)


def test_names_in_files_of_both_models_are_no_traces_either(tmp_path):
    """What both files say alike passes the comparison of their problems."""
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        file.write_text(json.dumps({"hash": "0", "eval": {f"{HALF}/0": [WRONG], "A/1": [WRONG]}}))
    with pytest.raises(UserError, match=r"one\.json is not what evalplus\.evaluate writes"):
        compare.main([*map(str, files)])


WRONG = {"base_status": "fail", "plus_status": "fail"}


def test_the_problems_that_differ_are_named(tmp_path):
    one = write_evalplus(tmp_path / "one.json", [1] * 12, "pass")
    two = write_evaluation(tmp_path / "two.json", base=2, plus=2, count=3, families=["HumanEval"])
    content = json.loads(two.read_text())
    content["problems"][2]["task_id"] = "Other/\x1b7"
    two.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        compare.main([one, str(two)])
    assert f"only {one} has 10 problems (HumanEval/2, HumanEval/3, " in str(caught.value)
    assert f"HumanEval/6, ...); only {two} has 1 problem (Other/\\x1b7). " in str(caught.value)


def test_pass_at_1_says_its_tests_and_the_original_ones_can_be_asked_for(tmp_path, capsys):
    """The answers of one to 8 of 20 problems pass the original tests, and none the extra ones."""
    one = write_evalplus(tmp_path / "one.json", [1] * 8 + [0] * 12, "fail")
    two = write_evalplus(tmp_path / "two.json", [1] * 20, "pass")
    compare.main([one, two])
    text = capsys.readouterr().out
    assert "| pass@1, original + extra tests |" in text.replace("  ", "") and "--tests base" in text
    assert "| one.json | 20       | 0.0% " in text
    compare.main([one, two, "--tests", "base"])
    text = capsys.readouterr().out
    assert "| one.json | 20       | 40.0% " in text and "extra" not in text
    assert "pass@1 is by original tests." in text
    plain = write_evalplus(tmp_path / "plain.json", [1] * 20)
    with pytest.raises(UserError, match=r"one\.json has results of the extra tests, and .*plain"):
        compare.main([one, plain])
    compare.main([one, plain, "--tests", "base"])
    assert "pass@1, original tests" in capsys.readouterr().out


LM_EVAL = {"doc_id": 0, "doc": {"task_id": "HumanEval/0"}, "resps": [["pass"]], "pass@1": 1.0}
INSPECT = {"version": 2, "status": "success", "eval": {"task": "humaneval"}, "samples": []}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples_humaneval_2026-12-06T10-00-00.jsonl", json.dumps(LM_EVAL) + "\n"),
        ("samples_humaneval_2026-12-06T10-00-00.jsonl", 2 * (json.dumps(LM_EVAL) + "\n")),
        ("results_2026-12-06T10-00-00.json", '{"results": {"humaneval": {"pass@1": 0.5}}}'),
        ("2026-12-06_humaneval.json", json.dumps(INSPECT)),
        ("2026-12-06_humaneval.eval", b"PK\x03\x04\xff\xfe"),
        ("scores.csv", "problem,passed\nHumanEval/0,1\n"),
        ("scores.csv", ""),
        ("samples.jsonl", ""),
        ("samples.jsonl.gz", b"\x1f\x8b\x08\xff"),
    ],
)
def test_what_other_tools_write_is_told_what_is_read(tmp_path, name, content):
    one = write_evalplus(tmp_path / "one.json", [1, 0], "pass")
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        compare.main([one, str(file)])
    assert str(caught.value) == (
        f"{file} is of a form that xft compare does not read. It reads *_eval_results.json of "
        "evalplus.evaluate, and results of step eval, such as results/eval/sft/humaneval.json"
    )


@pytest.mark.parametrize(
    ("samples", "result"),
    [
        ("a/samples.jsonl", "a/samples_eval_results.json"),
        ("humaneval.generations.jsonl", "humaneval.json"),
    ],
)
def test_samples_are_told_where_their_evaluation_is(tmp_path, samples, result):
    one = write_evalplus(tmp_path / "one.json", [1, 0], "pass")
    (file := tmp_path / samples).parent.mkdir(exist_ok=True)
    file.write_text('{"task_id": "HumanEval/0", "solution": ""}\n')
    for is_there in (False, True):
        if is_there:
            (tmp_path / result).write_text("{}")
        with pytest.raises(UserError, match="holds samples, not their evaluation") as caught:
            compare.main([one, str(file)])
        assert str(tmp_path / result) in str(caught.value)
        is_told = "evalplus.evaluate --samples" in str(caught.value)
        assert is_told == (not is_there and "generations" not in samples)
