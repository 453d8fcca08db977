"""The table of all evaluations."""

import csv
import hashlib
from pathlib import Path

import pytest
from evaluations import write_evaluation

from workflow_scripts import summary
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.evaluation import lm_eval_result
from xft.reporting import validation_losses as losses
from xft.reporting.subjects import model_name
from xft.tools import verify


@pytest.fixture
def evaluations(tmp_path, monkeypatch):
    """Results of three models, whose folders are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "results/dense/lam~0.75"):
        (tmp_path / name).mkdir(parents=True)
    folder = tmp_path / "results" / "eval"
    return [
        write_evaluation(
            folder / "moe_sft" / "humaneval.json", base=110, plus=106, task="HumanEval"
        ),
        write_evaluation(folder / "base" / "mbpp.json", base=0, plus=0, count=378, dataset="mbpp"),
        write_evaluation(
            folder / "dense" / "lam~0.75" / "mbpp.json",
            base=378,
            plus=300,
            count=378,
            dataset="mbpp",
            model="results/dense/lam~0.75",
        ),
    ]


def summarise(evaluations, out):
    summary.main(["--evals", *map(str, evaluations), "--out", str(out)])


def test_csv(evaluations, tmp_path):
    summarise(evaluations, tmp_path / "summary.csv")

    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [row["model"] for row in rows] == ["moe_sft", "base", "dense/lam~0.75"]
    assert rows[0] == {
        "model": "moe_sft",
        "dataset": "humaneval",
        "problems": "164",
        "pass@1 base": "67.1",
        "low base": "59.6",
        "high base": "73.8",
        "passed base": "110",
        "pass@1 plus": "64.6",
        "low plus": "57.1",
        "high plus": "71.5",
        "passed plus": "106",
        "model folder": "m",
        "eval file": str(evaluations[0]),
    }
    assert [row["pass@1 base"] for row in rows] == ["67.1", "0.0", "100.0"]
    assert rows[2]["model folder"] == "results/dense/lam~0.75"


def test_markdown_and_terminal(evaluations, tmp_path, capsys):
    summarise(evaluations, tmp_path / "summary.csv")
    markdown = (tmp_path / "summary.md").read_text()
    printed = capsys.readouterr().out

    table = markdown.splitlines()[:5]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    tests = ["pass@1, base tests", "pass@1, base + extra tests"]
    assert cells[0] == ["model", "dataset", "problems", *tests]
    shares = ["67.1 % (59.6 to 73.8; 110)", "64.6 % (57.1 to 71.5; 106)"]
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["moe_sft", "humaneval", "164", *shares]
    assert cells[4][3] == "100.0 % (99.0 to 100.0; 378)"
    assert len(set(map(len, table))) == 1 and len(table[0]) <= 110
    assert f"- moe_sft: `m`, evaluated in `{evaluations[0]}`" in markdown
    assert printed == markdown
    assert "In brackets: the 95% interval (Wilson's), and the number of passed samples." in markdown


def test_what_evalplus_would_count_is_said_once(evaluations, tmp_path, capsys):
    summarise(evaluations, tmp_path / "summary.csv")

    note = (
        "m on humaneval: EvalPlus itself would count 109 as passed on base tests, "
        "105 on base + extra tests."
    )
    assert capsys.readouterr().out.count(note) == 1
    assert (tmp_path / "summary.md").read_text().count(note) == 1


def test_the_manifest_names_the_files_that_were_read(evaluations, tmp_path):
    loss = tmp_path / "results" / "validation" / "base.json"
    rows = [{"loss": 1.5, "tokens": 2}]
    losses.write_loss(loss, {"model": {"path": "m", "id": None}, "loss": 1.5, "rows": rows}, {}, {})
    measured = tmp_path / "results" / "lm_eval" / "base" / "tasks.json"
    result = {"format": 1, "kind": "lm_eval", "model": {"path": "m", "id": None}}
    lm_eval_result.write(measured, result | {"settings": {}, "tasks": {}}, {})
    out = tmp_path / "results" / "summary.csv"
    evals = [str(file.relative_to(tmp_path)) for file in evaluations]
    words = ["--evals", *evals, "--losses", str(loss), "--lm-eval", str(measured)]
    summary.main([*words, "--out", str(out)])

    manifest = read_manifest(manifest_path(out))
    assert (manifest.kind, manifest.parameters) == ("summary", {})
    assert manifest.files.keys() == {"summary.csv", "summary.md", "comparisons.csv"}
    assert manifest.inputs == {
        name: hashlib.sha256((tmp_path / "results" / name).read_bytes()).hexdigest()
        for name in (
            "eval/base/mbpp.json",
            "eval/dense/lam~0.75/mbpp.json",
            "eval/moe_sft/humaneval.json",
            "lm_eval/base/tasks.json",
            "validation/base.json",
        )
    }
    verify.main([str(out), "--full"])
    out.with_name("comparisons.csv").write_text("edited")
    with pytest.raises(UserError, match=r"comparisons\.csv has 6 bytes"):
        verify.main([str(out)])


def test_equal_input_gives_equal_bytes(evaluations, tmp_path):
    for name in ("a.csv", "b.csv"):
        summarise(evaluations, tmp_path / name)

    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("results/eval/base/humaneval.json", "base"),
        ("results/eval/dense/lam~0.75/own.json", "dense/lam~0.75"),
        ("eval/results/eval/moe/x.json", "moe"),
        ("eval/x.json", "model"),
        ("elsewhere/x.json", "model"),
        ("x.json", "model"),
    ],
)
def test_model_names(tmp_path, file, name):
    assert model_name(Path(file), "some/model") == name


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "pass@1": {}}'])
def test_what_is_no_result_is_named(tmp_path, content):
    file = tmp_path / "r.json"
    file.write_text(content)

    with pytest.raises(UserError, match=r"r\.json"):
        summarise([file], tmp_path / "summary.csv")
    assert not (tmp_path / "summary.csv").exists()


def test_a_missing_result_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json"):
        summarise([tmp_path / "gone.json"], tmp_path / "summary.csv")


def test_the_csv_is_not_named_like_the_markdown_file(evaluations, tmp_path, capsys):
    with pytest.raises(SystemExit):
        summarise(evaluations, tmp_path / "summary.md")
    assert "--out must name the CSV file" in capsys.readouterr().err


def test_a_model_that_is_not_kept_is_told(evaluations, tmp_path, capsys):
    (tmp_path / "results/dense/lam~0.75").rmdir()
    summarise(evaluations, tmp_path / "summary.csv")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "(not kept)" in line] == [
        f"- dense/lam~0.75: `results/dense/lam~0.75` (not kept), evaluated in `{evaluations[2]}`"
    ]


def test_models_are_compared_with_those_that_they_come_from(tmp_path, capsys):
    folder = tmp_path / "results" / "eval"
    files = [
        write_evaluation(folder / model / f"{dataset}.json", base=n, plus=n, dataset=dataset)
        for dataset in ("humaneval", "mbpp")
        for model, n in {"base": 40, "moe_sft": 100, "dense/lam~0.75": 106}.items()
    ]
    summarise(files, tmp_path / "summary.csv")
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tests"] == "plus"]
    pairs = [("base", "moe_sft"), ("base", "dense/lam~0.75"), ("moe_sft", "dense/lam~0.75")]
    assert [(row["first"], row["second"]) for row in rows] == [p for p in pairs for _ in range(3)]
    assert [row["dataset"] for row in rows[:3]] == ["humaneval", "mbpp", "all"]
    last = rows[-1]
    assert (last["problems"], last["both"], last["only_second"]) == ("328", "200", "12")
    assert float(last["difference"]) == pytest.approx(12 / 328, abs=1e-4)
    assert float(last["p_value"]) == pytest.approx(2 / 2**12, abs=1e-4)


def compared(printed: str) -> tuple[list[str], list[list[str]], str]:
    """The heading and the rows of the table of comparisons, and the text below it."""
    _, table = printed.split("| model ")[1:]
    lines = ("| model " + table).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip(" |").split("|")] for row in rows]
    return cells[0], cells[2:], "\n".join(lines[len(rows) :])


def test_a_row_says_who_solves_more_than_whom(tmp_path, capsys):
    folder = tmp_path / "results" / "eval"
    files = [
        write_evaluation(folder / model / "mbpp.json", base=n, plus=n, count=100, dataset="mbpp")
        for model, n in {"base": 40, "moe_sft": 30}.items()
    ]
    summarise(files, tmp_path / "summary.csv")
    heading, (row,), text = compared(capsys.readouterr().out)
    assert heading[:3] == ["model", "against", "dataset"]
    assert row[:4] == ["moe_sft", "base", "mbpp", "-10.0"]
    assert heading[6] == "both, model, against, none" and row[6] == "30, 0, 10, 60"
    for words in (
        "model solves 10 percentage points more",
        "Tango's score interval for paired shares",
        "p: exact McNemar test",
    ):
        assert words in text
    assert "- base solves 10.0 points more than moe_sft on mbpp (100 problems): shown" in text


def test_words_say_what_is_shown_and_what_is_not(tmp_path, capsys):
    """By Holm: of three p-values the smallest counts three times, the next one twice."""
    folder = tmp_path / "results" / "eval"
    files = [
        write_evaluation(folder / model / "mbpp.json", base=n, plus=n, count=140, dataset="mbpp")
        for model, n in {"base": 40, "moe_sft": 99, "dense/lam~0.75": 107}.items()
    ]
    summarise(files, tmp_path / "summary.csv")
    _, rows, text = compared(capsys.readouterr().out)
    p_value = 2 / 2**8  # of dense against moe_sft, which differ on 8 problems
    assert [row[5] for row in rows] == ["< 0.001", "< 0.001", f"{p_value:.3f}"]
    assert "at the 5% level, with Holm's correction for 3 comparisons" in text
    assert "- moe_sft solves 42.1 points more than base on mbpp (140 problems): shown" in text
    dense = "- dense/lam~0.75 solves 5.7 points more than moe_sft on mbpp (140 problems): shown"
    assert f"{dense} (p = {p_value:.3f})" in text

    files[-1:] = [write_evaluation(files[-1], base=104, plus=104, count=140, dataset="mbpp")]
    summarise(files, tmp_path / "summary.csv")
    _, _, text = compared(capsys.readouterr().out)
    assert (
        "- dense/lam~0.75 against moe_sft on mbpp (140 problems): no difference is shown. "
        "Differences below about 4 points would often be missed." in text
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (8, "Differences below 75 points would often be missed."),
        (5, "There are too few problems to show any difference."),
    ],
    ids=str,
)
def test_few_problems_are_said_to_be_few(tmp_path, capsys, count, words):
    folder = tmp_path / "results" / "eval"
    files = [
        write_evaluation(folder / model / "few.json", base=2, plus=2, count=count, dataset="few")
        for model in ("base", "moe_sft")
    ]
    summarise(files, tmp_path / "summary.csv")
    text = compared(capsys.readouterr().out)[2]
    line = f"- moe_sft against base on few ({count} problems): no difference is shown. "
    assert line + words.replace("below", "below about") in text
    note = "With 8 problems, a difference can only be shown if one model solves at least 6"
    assert (note in text) == (count == 8)


def test_models_that_solve_the_same_need_no_number_of_problems(tmp_path, capsys):
    folder = tmp_path / "results" / "eval"
    files = [
        write_evaluation(folder / model / "few.json", base=0, plus=0, count=2, dataset="few")
        for model in ("base", "moe_sft")
    ]
    summarise(files, tmp_path / "summary.csv")
    _, (row,), _ = compared(capsys.readouterr().out)
    interval = "-65.8 to +65.8"  # z^2 / (2 + z^2)
    assert row == ["moe_sft", "base", "few", "+0.0", interval, "1.000", "0, 0, 0, 2"]


def test_different_backends_are_told(tmp_path, capsys):
    models = {"base": "vllm", "moe_sft": "transformers", "dense/lam~0.5": "vllm"}
    evaluations = [
        write_evaluation(tmp_path / "eval" / model / "mbpp.json", base=9, plus=9, backend=backend)
        for model, backend in models.items()
    ]
    note = "Generated with vllm: base, dense/lam~0.5; with transformers: moe_sft. "
    summarise(evaluations, tmp_path / "summary.csv")
    assert note in (tmp_path / "summary.md").read_text()
    assert note in capsys.readouterr().out
    summarise(evaluations[::2], tmp_path / "summary.csv")
    assert "Generated" not in (tmp_path / "summary.md").read_text()
