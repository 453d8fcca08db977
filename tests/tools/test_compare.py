"""`xft compare`: its figures are those of closed forms, from files of either form."""

import json
from pathlib import Path

import pytest
from evaluations import write_evaluation

from xft.common.errors import UserError
from xft.tools import compare

WORDS = {True: "pass", False: "fail"}


def write_evalplus(file, base, plus=None, version="0", order=1):
    """A file of evalplus.evaluate. base, plus: what is solved. order: -1 for the reverse."""
    solved = [{"base_status": WORDS[bool(value)], "plus_status": plus} for value in base]
    rows = {f"HumanEval/{number}": [row] for number, row in enumerate(solved)}
    file.write_text(json.dumps({"hash": version, "eval": dict([*rows.items()][::order])}))
    return str(file)


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


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "second.json is missing"),
        (lambda file: file.write_text('{"results": {}}'), "no result of step eval"),
        (lambda file: file.write_text('{"eval": {"HumanEval/0": ["pass"]}}'), "evalplus.evaluate"),
        (lambda file: write_evalplus(file, [1], "pass"), "different problems"),
        (lambda file: write_evalplus(file, [1, 0], "pass", version="1"), "other versions"),
        (lambda file: write_evalplus(file, [1, 0]), "different problems or tests"),
    ],
)
def test_what_cannot_be_compared_gets_one_message(tmp_path, write, message):
    first = write_evalplus(tmp_path / "first.json", [1, 0], "pass")
    with pytest.raises(UserError, match="nothing to compare"):
        compare.main([first, first])
    write(tmp_path / "second.json")
    with pytest.raises(UserError, match=message):
        compare.main([first, str(tmp_path / "second.json")])
