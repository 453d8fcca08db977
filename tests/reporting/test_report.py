"""`xft report`: its figures are those of the results, and it runs no foreign code."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from problem_files import three_problems
from report_folders import HOSTILE, write_results

from xft.common.errors import UserError
from xft.tools import report


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts by id."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: dict[str | None, str] = {}
        self.text = ""
        self.script: dict | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.script = dict(attrs) if tag == "script" else None

    def handle_endtag(self, tag):
        self.script = None

    def handle_data(self, data):
        if self.script is None:
            self.text += data
        else:
            self.scripts[self.script.get("id")] = data

    @property
    def charts(self) -> dict[str, dict]:
        """All charts by id, as a browser reads them: NaN is not JSON."""
        return json.loads(self.scripts["charts"], parse_constant=pytest.fail)


def values(chart: dict) -> list[dict]:
    """All rows that a chart or its layers hold."""
    rows = chart.get("data", {}).get("values", [])
    return [*rows, *(row for layer in chart.get("layer", []) for row in values(layer))]


def write_report(*folders, out=None) -> Page:
    out = out or folders[0] / "report.html"
    report.main([*map(str, folders), "--out", str(out)])
    return Page(out.read_text())


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> Page:
    """The report of a run of the workflow."""
    return write_report(finished.results, out=tmp_path_factory.mktemp("report") / "report.html")


def test_the_scores_are_those_of_the_evaluations(page, finished):
    drawn = {row["label"]: row for row in values(page.charts["scores-problems-plus"])}
    assert drawn.keys() == {"base", "moe_sft", "dense/lam~0.75"}
    for model, row in drawn.items():
        result = json.loads((finished.results / "eval" / model / "problems.json").read_text())
        solved = [problem["plus"] == "passed" for problem in result["problems"]]
        assert row["share"] == pytest.approx(100 * sum(solved) / len(solved), abs=0.05)
        assert row["low"] <= row["share"] <= row["high"] != row["low"]


def test_the_differences_are_those_of_the_table(page, finished):
    with (finished.results / "comparisons.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tests"] == "plus"]
    drawn = [row for row in values(page.charts["differences-problems"]) if "pair" in row]
    pairs = {row["pair"]: row["difference"] for row in drawn}
    assert pairs == {
        f"{row['second']} against {row['first']}": pytest.approx(100 * float(row["difference"]))
        for row in rows
    }


def test_the_curves_are_those_of_the_metrics(page, finished):
    lines = (finished.results / "metrics" / "moe_sft.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, lines) if "loss" in line]
    drawn = [row for row in values(page.charts["loss-curves"]) if row["training"] == "moe_sft"]
    steps = {row["step"]: row for row in drawn}
    assert {step: row["loss"] for step, row in steps.items()} == {
        line["step"]: line["loss"] for line in lines
    }
    weights = [0.95**age for age in reversed(range(len(lines)))]
    mean = sum(w * line["loss"] for w, line in zip(weights, lines, strict=True)) / sum(weights)
    assert steps[lines[-1]["step"]]["smoothed"] == pytest.approx(mean)


def test_equal_loads_and_shares_are_in_the_middle(page):
    for start, key, middle in (("load", "load", 1), ("deviation", "deviation", 0)):
        (name,) = [name for name in page.charts if name.startswith(start)]
        rows: dict = {}
        for cell in values(page.charts[name]):
            rows.setdefault(cell.get("layer", cell.get("set")), []).append(cell[key])
        for cells in rows.values():
            assert sum(cells) / len(cells) == pytest.approx(middle, abs=1e-3)


def test_the_verdict_is_that_of_the_summary(page, finished):
    """Of four problems, which no model solves with 16 tokens."""
    verdict = ["3 pairs do not differ significantly."]
    verdict.append("With 4 problems no difference can be significant.")
    summary = (finished.results / "summary.md").read_text()
    for line in verdict:
        assert f"- {line}\n" in summary and page.text.count(line) == 2  # and in the summary as text


def test_the_times_and_the_memory_are_those_that_snakemake_measured(page, finished):
    place = finished.results / "benchmarks"
    names = {file.relative_to(place).with_suffix("").as_posix() for file in place.rglob("*.jsonl")}
    assert names >= {"moe_sft", "dense/lam~0.75", "eval/base/problems", "eval/moe_sft/problems"}
    measured = json.loads((place / "moe_sft.jsonl").read_text())
    asked = measured["resources"]
    cells = [f"{measured['s']:.1f}", f"{measured['max_rss']:,.0f}"]
    cells += [f"{asked['mem_mb']:,}", f"{asked['runtime']:,}", f"{measured['mean_load']:,.0f}"]
    assert "".join(["moe_sft", *cells]) in page.text


def test_merges_are_drawn_over_lambda(tmp_path):
    write_results(tmp_path, {"base": 2, "dense/lam~0.5": 5, "dense/lam~0.75": 9, "sft": 4})
    drawn = values(write_report(tmp_path).charts["lambda-own"])
    assert {(row["merge"], row["lam"], row["share"]) for row in drawn} == {
        ("dense", 0.5, 25),
        ("dense", 0.75, 45),
    }


def test_the_page_asks_for_nothing_and_runs_its_own_scripts_alone(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "img", "svg"), attributes
        assert not {"src", "style"} & attributes.keys() or attributes["style"].startswith(
            "--models"
        )
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy and policy.count("sha256-") == 2
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_what_a_model_wrote_is_text(tmp_path):
    write_results(tmp_path, {"base": 3, "dense/lam~0.75": 9})
    page = write_report(tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 3
    for code in HOSTILE:
        assert page.text.count(code) == 8  # of 40 solutions
    assert "broken in" not in page.scripts["charts"]


def test_seeds_are_points_of_one_row_with_their_mean(tmp_path):
    write_results(tmp_path, {"sft": 5}, seeds=(43, 44))
    chart = write_report(tmp_path).charts["scores-own-plus"]
    assert {row["seed"] for row in values(chart)} == {"42", "43", "44"}
    assert {row["label"] for row in values(chart)} == {"sft"}
    assert len(chart["layer"]) == 3


def test_several_folders_are_one_report(tmp_path):
    for name, solved in (("one", 5), ("two", 9)):
        write_results(tmp_path / name, {"base": solved})
    page = write_report(tmp_path / "one", tmp_path / "two", out=tmp_path / "both.html")
    drawn = {row["label"]: row["share"] for row in values(page.charts["scores-own-plus"])}
    assert drawn == {f"{tmp_path}/one: base": 25, f"{tmp_path}/two: base": 45}


def test_an_unfinished_run_shows_what_there_is_and_names_what_is_missing(finished, tmp_path):
    (tmp_path / "metrics").mkdir()
    metrics = (finished.results / "metrics" / "moe_sft.jsonl").read_text()
    (tmp_path / "metrics" / "moe_sft.jsonl").write_text(metrics[: metrics.rfind("loss")])
    page = write_report(tmp_path)
    assert page.charts.keys() >= {"loss-curves", "entropy"}
    for missing in ("summary.csv", "data/report.json", "config.yaml"):
        assert missing in page.text


def test_a_configuration_of_another_version_is_no_hindrance(tmp_path):
    write_results(tmp_path, {"base": 3})
    (tmp_path / "config.yaml").write_text("moe: {experts_of_tomorrow: 9}\n")
    page = write_report(tmp_path)
    assert "experts_of_tomorrow" in page.text and "scores-own-plus" in page.charts


def test_the_configuration_and_the_prompts_are_shown(page, finished, repository):
    table = re.sub(r"\s+", " ", page.text)
    assert "base.model" in table and "resources/base" in table
    assert (finished.results / "config.yaml").read_text() in page.text
    with (repository / "resources" / "problems.jsonl").open() as file:
        prompts = [json.loads(next(file))["prompt"] for _ in range(4)]  # all that are evaluated
    assert [prompt for prompt in prompts if prompt not in page.text] == []


SECRET = "what the reader keeps at home"


def lead_out_by_a_link(folder, secret):
    (folder / "summary.md").unlink()
    (folder / "summary.md").symlink_to(secret)


def lead_out_by_the_table(folder, secret):
    secret.with_name("x.generations.jsonl").write_text(
        json.dumps({"task_id": "T/0", "number": 0, "solution": SECRET}) + "\n"
    )
    own = folder / "eval" / "base" / "own.json"
    secret.with_name("x.json").write_bytes(own.read_bytes())
    table = pd.read_csv(folder / "summary.csv")
    table.assign(**{"eval file": str(secret.with_name("x.json"))}).to_csv(folder / "summary.csv")


def lead_out_by_the_solutions(folder, secret):
    lead_out_by_the_table(folder, secret)
    shutil.copy(secret.with_name("x.json"), folder)
    (folder / "x.generations.jsonl").symlink_to(secret.with_name("x.generations.jsonl"))


def lead_out_by_the_problems(folder, secret):
    prompt = f'def add(a, b):\n    """{SECRET}"""\n'
    problem = three_problems()[0] | {"task_id": "T/0", "prompt": prompt}
    secret.with_name("own.jsonl").write_text(json.dumps(problem) + "\n")
    config = {"base": {"model": "m"}, "data": {"train": "t"}}
    config["evaluation"] = {"datasets": [str(secret.with_name("own.jsonl"))]}
    (folder / "config.yaml").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "lead",
    [
        lead_out_by_a_link,
        lead_out_by_the_table,
        lead_out_by_the_solutions,
        lead_out_by_the_problems,
    ],
)
def test_nothing_outside_of_the_folder_is_shown(tmp_path, lead):
    folder, secret = tmp_path / "results", tmp_path / "home" / "secret"
    secret.parent.mkdir()
    secret.write_text(SECRET)
    write_results(folder, {"base": 3})
    lead(folder, secret)
    page = write_report(folder)
    assert SECRET not in page.text


def test_shared_results_are_read_from_the_cache_of_the_user(tmp_path, monkeypatch):
    write_results(tmp_path / "results", {"base": 3})
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").write_text('{"step": 1, "loss": 0.5}\n')
    (tmp_path / "results" / "metrics").mkdir()
    (tmp_path / "results" / "metrics" / "sft.jsonl").symlink_to(tmp_path / "cache" / "a")
    assert "loss-curves" in write_report(tmp_path / "results").charts


def test_nan_is_a_gap(tmp_path):
    write_results(tmp_path, {"base": 3})
    (tmp_path / "metrics").mkdir()
    losses = (1.0, float("nan"), float("inf"), 1.0)
    lines = (
        {"step": step, "loss": loss, "learning_rate": loss, "entropy": [loss], "load": [[loss, 1]]}
        for step, loss in enumerate(losses)
    )
    (tmp_path / "metrics" / "sft.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    charts = write_report(tmp_path).charts
    drawn = {row["step"]: row for row in values(charts["loss-curves"])}
    assert [row["loss"] for row in drawn.values()] == [1, None, None, 1]
    assert [row["smoothed"] for row in drawn.values()] == pytest.approx([1, None, None, 1])
    assert "entropy" in charts


def write_metrics(folder, line):
    (folder / "metrics").mkdir()
    (folder / "metrics" / "sft.jsonl").write_text(line + "\n")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        *(
            (lambda folder, line=line: write_metrics(folder, line), f"sft.jsonl is not .*{message}")
            for line, message in [
                ("[" * 100_000, "line 1: it is nested too deeply"),
                (f'{{"loss": {"9" * 5000}}}', "line 1: a number has too many digits"),
                (f'{{"step": 1, "loss": {"9" * 4000}}}', "as step sft writes it"),
                ('{"step": 1, "loss": "low"}', "as step sft writes it"),
                ('{"loss": 1}', "as step sft writes it"),
            ]
        ),
        (
            lambda folder: (folder / "diversity.json").write_text('{"layers": [1]}'),
            "diversity.json is not as step diversity writes it",
        ),
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "report.html").write_text("mine"), "is no report"),
        (lambda folder: (folder / "report.html").mkdir(), "is no report"),
        (lambda folder: (folder / "summary.csv").write_text(""), "not tables of step summary"),
        (
            lambda folder: (folder / "comparisons.csv").write_text("first,second\na,b\n"),
            "not tables of step summary",
        ),
        (
            lambda folder: (folder / "eval/base/own.generations.jsonl").write_text("{\n"),
            "not a file of JSON objects",
        ),
    ],
)
def test_what_is_no_results_folder_gets_one_message(tmp_path, prepare, message):
    write_results(tmp_path / "results", {"base": 3})
    prepare(tmp_path / "results")
    with pytest.raises(UserError, match=message):
        report.main([str(tmp_path / "results"), "--out", str(tmp_path / "results" / "report.html")])


def test_a_report_replaces_an_older_one_with_equal_bytes(tmp_path):
    write_results(tmp_path, {"base": 3})
    write_report(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first
