"""`xft compare`: its figures are those of scipy and closed forms, from files of either form."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluations import write_evaluation
from scipy.stats import bootstrap, norm

from xft.common.errors import UserError
from xft.tools import compare

WORDS = {True: "pass", False: "fail"}


def write_evalplus(file, base, plus=None, version="0", order=1):
    """A file of evalplus.evaluate. base, plus: what is solved. order: -1 for the reverse."""
    rows = {
        f"HumanEval/{number}": [{"base_status": WORDS[bool(of_base)], "plus_status": plus}]
        for number, of_base in enumerate(base)
    }
    file.write_text(json.dumps({"hash": version, "eval": dict([*rows.items()][::order])}))
    return str(file)


def told(capsys, *files) -> tuple[str, dict[tuple, dict]]:
    """The sentences, and the rows of differences by the models."""
    compare.main([*map(str, files)])
    verdict, _, table = capsys.readouterr().out.split("\n\n")
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line[0] == "|"]
    heads, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return verdict, {(row[0], row[1]): dict(zip(heads, row, strict=True)) for row in rows}


def test_the_differences_are_those_of_a_paired_bootstrap(tmp_path, capsys):
    """A solution must also pass the original tests."""
    rng = np.random.default_rng(1)
    solved = [rng.random(164) < share for share in (0.3, 0.5, 0.55)]
    files = [
        write_evalplus(tmp_path / f"{n}.json", base, "pass", order=1 - 2 * (n % 2))
        for n, base in enumerate(solved)
    ]
    verdict, rows = told(capsys, *reversed(files))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pair = f"{second}.json", f"{first}.json"
        values = solved[second].astype(float) - solved[first]
        expected = bootstrap((values,), np.mean, n_resamples=19_999, method="percentile", rng=1)
        ends = [float(end) / 100 for end in rows[pair]["95% interval"].split(" to ")]
        assert float(rows[pair]["difference"]) == pytest.approx(100 * values.mean(), abs=0.05)
        assert ends == pytest.approx(expected.confidence_interval, abs=0.007)
        error, size = values.std(ddof=1) / 164**0.5, max(values.mean(), 0.02)
        needed = 164 * ((norm.isf(0.025 / 3) + norm.isf(0.2)) * error / size) ** 2
        shown = float(rows[pair]["problems needed"].replace(",", ""))
        assert shown == pytest.approx(needed if needed > 164 else 0, rel=0.05)
    assert "Not decided: 2.json does not solve" in verdict
    assert "More evidence: about" in verdict


def test_all_pairs_are_corrected_for(tmp_path, capsys):
    """p = 2 / 2^k, if one model alone solves k problems: 6, 5 and 1 of them."""
    models, files = ["base", "dense/lam~0.5", "dense/lam~1"], []
    for model, solved in zip(models, (40, 41, 46), strict=True):
        (file := tmp_path / model / "eval.json").parent.mkdir(parents=True)
        files.append(write_evalplus(file, [i < solved for i in range(164)], "pass"))
    verdict, rows = told(capsys, *files)
    assert {pair: (row["p, Holm"], row["significant"]) for pair, row in rows.items()} == {
        (models[2], models[0]): ("0.094", "no"),
        (models[2], models[1]): ("0.125", "no"),
        (models[1], models[0]): ("1.000", "no"),
    }
    assert f" more problems than {models[0]} and {models[1]}.\n" in verdict


def test_files_of_both_forms_give_the_same_and_the_best_one_is_taken(tmp_path, capsys):
    names = {"count": 40, "families": ["HumanEval"]}
    ours = [write_evaluation(tmp_path / f"{n}.json", base=n, plus=n, **names) for n in (5, 35)]
    theirs = [
        write_evalplus(tmp_path / f"{n}-theirs.json", [i < n for i in range(40)], "pass")
        for n in (5, 35)
    ]
    tables = []
    for low, high in ((ours[0], theirs[1]), (theirs[0], ours[1]), ours, theirs):
        verdict, rows = told(capsys, high, low)
        assert verdict.startswith(
            f"- Take {Path(high).name}: it solves significantly more problems than {Path(low).name}"
        )
        tables += [[*row.values()][3:] for row in rows.values()]
    assert tables == [tables[0]] * 4 and tables[0][0] == "+75.0"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "second.json is missing"),
        (lambda file: file.write_text('{"results": {}}'), "no result of step eval"),
        (lambda file: file.write_text('{"eval": {"HumanEval/0": ["pass"]}}'), "evalplus.evaluate"),
        (lambda file: write_evalplus(file, []), "evalplus.evaluate writes: IndexError"),
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
