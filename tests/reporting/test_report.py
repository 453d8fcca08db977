"""`xft report`: its figures are those of the results, and it runs no foreign code."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import vl_convert
import yaml
from damage import change_json
from problem_files import three_problems, write_problems
from report_folders import HOSTILE, Runs, write_results

from xft.artifacts.manifest import Manifest, manifest_path
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.config.sections import TRAININGS
from xft.estimates.model_sizes import read_table
from xft.reporting.comparisons import COLUMNS
from xft.reporting.names import model_text, without_lambda
from xft.reporting.page.charts import lines
from xft.reporting.page.folder import Costs, Folder, Results, Solution, Trainings
from xft.reporting.page.page import LOOK
from xft.reporting.page.parts import find_parts
from xft.store.store import MARK
from xft.tools import joint_report as report


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts by id."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.scripts, self.text = [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[self.elements[-1][1].get("id")] = data
        else:
            self.text += data

    @property
    def charts(self) -> dict[str, list[dict]]:
        """The rows of all charts by title, as a browser reads them: NaN is not JSON."""
        titles = [a["aria-label"] for _, a in self.elements if a.get("class") == "chart"]
        charts = json.loads(self.scripts["charts"], parse_constant=pytest.fail)
        rows = [chart["data"]["values"] for chart in charts]
        return dict(zip(titles, rows, strict=True))


def write_report(*folders, out=None) -> Page:
    out = out or folders[0] / "report.html"
    report.main([*map(str, folders), "--out", str(out)])
    return Page(out.read_text())


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> Page:
    """The report of a run of the workflow."""
    return write_report(finished.results, out=tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("solved", [8, 18])
def test_the_differences_are_those_of_the_table(tmp_path, solved):
    """Six problems solved by one model alone: the interval excludes 0, and p times 3 is 0.09."""
    write_results(tmp_path, {"base": 2, "sft": solved, "moe_sft": solved})
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tests"] == "plus"]
    drawn = write_report(tmp_path).charts["own, original + extra tests"]
    assert {(row["pair"], row["difference"], str(row["significant"])) for row in drawn} == {
        (f"{row['second']} vs {row['first']}", 100 * float(row["difference"]), row["significant"])
        for row in rows
    }
    assert all(row["low"] > 0 for row in drawn if row["pair"].endswith(" vs base"))
    assert sum(row["significant"] for row in drawn) == (2 if solved == 18 else 0)


def test_the_curves_are_those_of_the_metrics(page, finished):
    lines = (finished.results / "metrics" / "moe_sft.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, lines) if "loss" in line]
    drawn = [row for row in page.charts["Loss"] if row["training"] == "moe_sft"]
    assert [(row["step"], row["loss"]) for row in drawn] == [(x["step"], x["loss"]) for x in lines]
    weights = [0.95**age for age in reversed(range(len(lines)))]
    mean = sum(w * line["loss"] for w, line in zip(weights, lines, strict=True)) / sum(weights)
    assert drawn[-1]["smoothed"] == pytest.approx(mean)


def test_one_layer_is_a_sentence_with_its_number_and_a_mean_load_and_share_of_1(page, finished):
    upcycled = json.loads((finished.results / "moe" / "config.json").read_text())["upcycled_layers"]
    assert upcycled == [3]
    assert re.search(r"spread, %: [\d.]+ \(as configured, layer 3\)", page.text)
    for key in ("load", "share"):
        cells = re.search(rf"{key}: (([\d.]+ \(layer 3, expert \d\)[.;] )+)", page.text)[1]
        values = [float(value) for value in re.findall(r"([\d.]+) \(", cells)]
        assert np.mean(values) == pytest.approx(1, abs=0.01)


def test_the_verdict_is_that_of_the_summary(page, finished, tmp_path):
    """Of four problems, and of a difference of 16.25 points: its last bit decides how it rounds."""
    few = "With 4 problems and 3 pairs of models, no difference in pass@1 can be significant."
    write_results(tmp_path, {"base": 0, "sft": 13}, count=80)
    pair = "Of 1 pair of models, 1 differs significantly in pass@1."
    pages = (finished.results, page, few), (tmp_path, write_report(tmp_path), pair)
    for folder, shown, said in pages:
        decision, statistics, *_ = (folder / "summary.md").read_text().split("\n\n")
        assert said in statistics
        for line in re.findall("^- (.*)", f"{decision}\n{statistics}", re.MULTILINE):
            assert shown.text.replace("`", "").count(line.replace("`", "")) == 2
    assert "basethe given model, not fine-tuned" in page.text
    trained = r"trainingsmoe_sft, \d+ steps; weighted_trained, lambda 0.75, \d+ steps"
    assert re.search(trained + 'data set"problems", 4 problems', page.text)


@pytest.mark.parametrize("variant", ["", "late"])
def test_how_the_merged_model_compares_with_sft_is_said_everywhere(tmp_path, capsys, variant):
    """Behind the decision, also where the configuration asks something else first."""
    runs = Runs(tmp_path)
    runs.add_all({"base": 40, "sft": 60, "dense/lam~0.75": 58})
    if variant:
        runs.add("dense/lam~0.75", 59, variant=variant)
    text, *_ = runs.summarise()
    screen = capsys.readouterr().out
    verdict = json.loads((tmp_path / "summary.json").read_text())["verdict"]
    said = verdict["reasons"][0]
    assert said.startswith("dense 0.75 (XFT's merged model) against sft: -2.0 percentage points")
    behind = f"{verdict['decision']}\n- {said}\n"
    assert behind in text and behind in screen
    page = write_report(tmp_path)
    assert f"{verdict['decision']}\n\n{said}" in page.text


def test_the_section_of_the_verdict_begins_with_the_answer(tmp_path):
    """How significance is computed is a footnote, to which a link leads."""
    write_results(tmp_path, {"base": 2, "sft": 8, "moe_sft": 8})
    page = write_report(tmp_path)
    decision = json.loads((tmp_path / "summary.json").read_text())["verdict"]["decision"]
    section = page.text[page.text.index(decision) :]
    assert page.text.partition(decision)[0].rstrip().endswith("Verdict")
    assert section.index("Holm's correction for all pairs") < section.index("Scores and losses")
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    places = [attributes.get("id") for _, attributes in page.elements]
    assert links.count("#significant") == 1 and places.count("significant") == 1


def test_the_page_shows_what_the_summary_decided_and_decides_nothing_again(tmp_path):
    """Each file says something that follows from no result."""
    write_results(tmp_path, {"base": 2, "sft": 8, "moe_sft": 8})
    change_json(tmp_path / "summary.json", statistics=["As the stars say."])
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["significant"] for row in rows} == {"False"}
    text = (tmp_path / "comparisons.csv").read_text()
    (tmp_path / "comparisons.csv").write_text(text.replace("False", "True"))
    page = write_report(tmp_path)
    assert "As the stars say." in page.text
    drawn = page.charts["own, original + extra tests"]
    assert [row["significant"] for row in drawn] == [True] * 3


@pytest.mark.parametrize("content", ["{}", '{"answers": [1]}', "["])
def test_a_summary_that_no_step_wrote_is_named(tmp_path, content):
    for name in ("summary.json", "comparisons.csv"):
        write_results(tmp_path, {"base": 2, "sft": 8})
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=name):
            write_report(tmp_path)


def test_a_summary_without_its_sentences_is_not_finished(tmp_path):
    """Such as one of an earlier version."""
    write_results(tmp_path, {"base": 2, "sft": 8})
    (tmp_path / "summary.json").unlink()
    assert "summary.json: the run is not finished" in write_report(tmp_path).text
    assert 'class="decision"' not in (tmp_path / "report.html").read_text()


def test_the_shares_beside_a_difference_count_the_same_data_sets(tmp_path):
    """40 of 80 and 60 of 80 problems. No model solves any of js, and the base alone has extra."""
    runs = Runs(tmp_path)
    for dataset, solved in {"a": (10, 16), "b": (30, 44), "js": (0, 0)}.items():
        count = {"a": 20, "b": 60, "js": 40}[dataset]
        models = dict(zip(("base", "sft"), solved, strict=True))
        runs.add_all(models, dataset=dataset, count=count, families=[dataset])
    runs.add("base", 7, dataset="extra", families=["extra"])
    runs.summarise()
    page = write_report(tmp_path)
    assert "sft against base: +25.0 percentage points" in page.text
    assert 'pass@1 on "a" and "b", all tests: base 50.0%, sft 75.0%. Seeds: 1.' in page.text


def test_a_run_shows_in_its_own_report_what_its_jobs_cost(finished):
    page = Page((finished.results / "report.html").read_text())
    place = finished.results / "costs"
    files = {str(file.relative_to(place)): file for file in place.rglob("*.json")}
    for name in ("moe_sft", "dense/lam~0.75", "eval/base/problems"):
        costs = json.loads(files[f"{name}.costs.json"].read_text())
        (attempt,) = costs["attempts"]
        memory = [part["memory_gib"] for part in (attempt, costs["expected"], costs["asked"])]
        cells = f"{attempt['seconds']:,.0f}" + "".join(f"{size:.2f}" for size in memory if size)
        assert f"{name}{cells}" in page.text


def add_job(folder, name: str, attempts: list[tuple], kind="", **inputs: str) -> str:
    """Write the manifest and the costs of a job. The id of its artifact."""
    manifest = Manifest(kind or name, {"f": {"size": 0, "sha256": "0" * 64}}, inputs=inputs)
    manifest_path(folder / name).write_text(manifest.to_json())
    names = "seconds", "processor_seconds", "memory_gib"
    costs = {"asked": {"memory_gib": 0.373, "minutes": 10}}
    costs["attempts"] = [dict(zip(names, attempt, strict=True)) for attempt in attempts]
    file = folder / "costs" / f"{name.removesuffix('.json')}.costs.json"
    write_whole(file, json.dumps(costs))
    return manifest.id


def test_costs_are_those_of_all_attempts_and_of_all_jobs_before(tmp_path):
    """One of 20 problems tells the models apart: 2.8^2 x 20 / 19 x 0.05 x 0.95 / 0.05^2 is 160."""
    write_results(tmp_path, {"sft": 8, "moe_sft": 9})
    base = add_job(tmp_path, "base", [(420, 420, 1)])
    attempts = [(100, 50, 0.293), (20, None, None), (60, 110, 0.195)]
    for model, measured in (("sft", attempts), ("moe_sft", [(2280, 1, 1)])):
        file = tmp_path / "eval" / model / "own.json"
        made = add_job(tmp_path, model, measured, base=base)
        change_json(file, model={"path": "", "id": made})
        add_job(tmp_path, f"eval/{model}/own.json", [(300, 1, 1)], "eval", model=made)
    text = write_report(tmp_path).text
    cells = "sft (in 3 parts)", 180, 0.29, 0.37, 10, 100
    assert "".join(map(str, cells)) in text
    assert "all jobs that a model depends on: sft 10.0 minutes, moe_sft 45.0 minutes." in text
    assert "took 10.0 minutes, and with 160 problems it would take about 80.0 minutes." in text
    (tmp_path / "costs" / "sft.costs.json").write_text('{"attempts": []}')
    with pytest.raises(UserError, match=r"costs/sft.costs.json is not what step store.make writes"):
        write_report(tmp_path)


def test_scores_and_losses_are_drawn_over_lambda_and_counted_by_family(tmp_path):
    """The mean of losses 1 and 4 of 2 and 1 tokens is 2, its standard error sqrt(2^2 + 2^2) / 3.

    The base's loss is left out if it is far away.
    """
    models = {"base": 2, "dense/lam~0.5": 5, "dense/lam~0.75": 9, "sft": 4}
    losses = {"base": (90, 90), "dense/lam~0.5": (1, 4), "dense/lam~0.75": (2, 2), "sft": (3, 3)}
    write_results(tmp_path, models, families=["F0", "F1"], losses=losses)
    page = write_report(tmp_path)
    drawn = page.charts["own, original + extra tests, over lambda"]
    swept = {("dense", 0.5, 25), ("dense", 0.75, 45)}
    level = {(model, lam, 5 * models[model]) for model in ("base", "sft") for lam in (0.5, 0.75)}
    assert {(row["line"], row["x"], row["value"]) for row in drawn} == swept | level
    drawn = {(r["line"], r["x"], r["value"]) for r in page.charts["validation loss, over lambda"]}
    assert drawn == {("dense", 0.5, 2), ("dense", 0.75, 2), ("sft", 0.5, 3), ("sft", 0.75, 3)}
    (row,) = [r for r in page.charts["validation loss, 2 rows"] if r["label"] == "dense 0.5"]
    assert (row["high"] - 2, 2 - row["low"]) == pytest.approx([1.96 * 8**0.5 / 3] * 2)
    assert "Not in the chart, because it is far away: base 90.0000." in page.text
    assert "modelF0 of 10F1 of 10\nbase11dense 0.532dense 0.7554sft22\n" in page.text
    assert "seed" not in page.text.partition("All scores")[2].partition("base")[0]
    assert re.search(r"F\d/\d+", page.text)[0] == "F0/2"  # the first that not all models solve
    write_results(tmp_path, models, losses=losses | {"base": (4, 4)})
    assert "base" in str(write_report(tmp_path).charts["validation loss, 2 rows"])


def test_the_page_asks_for_nothing_and_runs_its_own_scripts_alone(page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "img", "svg"), attributes
        assert not {"src", "style"} & attributes.keys() or attributes["style"].startswith("--")
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


def test_the_table_of_problems_has_the_base_and_the_models_that_solve_most(tmp_path):
    tuned = [f"dense/lam~0.{n}" for n in range(10, 22)]
    write_results(tmp_path, {"base": 0} | {model: n for n, model in enumerate(tuned, start=1)})
    (part,) = find_parts([Folder(tmp_path)])["problems"]
    assert part.models == ["base", *map(model_text, tuned[-9:])]


def test_the_name_of_a_problem_may_break_behind_its_family(tmp_path):
    """On a phone, ten models leave little room for it."""
    write_results(tmp_path, {"base": 3}, count=101, families=["HumanEval"])
    write_report(tmp_path)
    assert "HumanEval/<wbr>100" in (tmp_path / "report.html").read_text()


HOSTILE_NAME = "</script></title><img src=x onerror=alert(1)>\"'`{{ 7 * 7 }}"


def test_names_of_models_and_sets_are_text(tmp_path):
    """The table of runs and the results of a folder may be somebody else's."""
    runs = Runs(tmp_path)
    about = {"name": HOSTILE_NAME}
    runs.add_all({"base": 10, "sft": 40}, about=about, losses=[1.0, 2.0])
    for row in runs.rows:
        row["dataset"] = HOSTILE_NAME
    runs.rows[1]["model"] = f"sft{HOSTILE_NAME}"
    runs.summarise()
    write_whole(tmp_path / "metrics" / "x<img>.jsonl", '{"step": 1, "loss": 1}\n' * 2)
    page = write_report(tmp_path)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags
    assert page.text.count(HOSTILE_NAME) > 5
    drawn = [row for rows in page.charts.values() for row in rows]
    assert f"sft{HOSTILE_NAME}" in {row.get("label") for row in drawn}


OWN = "own, original + extra tests, 20 problems"


def test_several_folders_are_one_report_and_seeds_are_points_of_one_row(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_results(one, {"base": 5, "sft": 5}, seeds=(43, 44))
    write_results(two, {"sft": 9})
    drawn = write_report(one, two, out=tmp_path / "both.html").charts[OWN]
    assert [(row["label"], row["seed"], row["value"]) for row in drawn] == [
        (f"{one}: base", "", 25),
        *[(f"{one}: sft", "42", 25), (f"{one}: sft", "43", 30), (f"{one}: sft", "44", 35)],
        (f"{two}: sft", "", 45),
    ]


def in_memory(**shares: tuple[int, int]) -> SimpleNamespace:
    """A `Folder` of sets js and py. The models solve these shares of them, in percent."""
    flops = {(model_text(model), ""): n for n, model in enumerate(shares, start=1)}
    results = Results()
    run = SimpleNamespace(results=results, trainings=Trainings(), costs=Costs(flops=flops))
    for model, of_model in shares.items():
        for dataset, share in zip(("js", "py"), of_model, strict=True):
            row = dict.fromkeys([*COLUMNS, "units"], 0) | {"dataset": dataset, "tests": "plus"}
            row |= {"label": model_text(model), "model": model, "seed": "", "value": share}
            kind, lam = without_lambda(model)
            row |= {"method": row["label"], "line": kind, "lambda": lam, "is_swept": False}
            results.values.append(row)
            results.comparisons.append(
                row | {"first": "base", "second": model, "difference": share}
            )
            results.solutions[dataset] = {"T/0": {model: Solution("failed", "", None)}}
    return run


def test_sets_on_which_models_differ_come_first():
    parts = find_parts([in_memory(base=(0, 50), sft=(0, 75))])
    for name in ("scores", "cost", "differences", "problems"):
        assert [part.title[:2] for part in parts[name]] == ["py", "js"], name


def test_a_page_of_many_scores_and_seeds_shows_the_scores_and_each_training_once(tmp_path):
    """Problems that are all of another family get no table of families."""
    models = {f"dense/lam~0.{n}": n for n in range(1, 7)}
    write_results(tmp_path, models, seeds=[43], families=[f"HumanEval_{n}" for n in range(20)])
    write_whole(tmp_path / "metrics/sft.jsonl", '{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n')
    shutil.copytree(tmp_path / "metrics", tmp_path / "metrics" / "seed~43")
    page = write_report(tmp_path)
    assert "trainingssft, 2 stepsdata set" in page.text
    assert "All scores\nmodelseed" in page.text
    assert "of each family" not in page.text


def test_a_model_has_one_colour_in_all_charts_also_with_several_seeds():
    models = "base", "sft", "moe_sft", "dense/lam~0.5", "dense/lam~0.75"
    run = in_memory(**{model: (5 * n, 9 * n) for n, model in enumerate(models)})
    for name in ("moe_sft", "seed~43/moe_sft", "seed~43/sft", "sft"):
        point = {"training": name, "loss": 1, "smoothed": 1, "learning_rate": 1}
        run.trainings.curves += [point | {"step": step} for step in (1, 2)]
    colours: dict[str, set[str]] = {}
    for part in (part for parts in find_parts([run]).values() for part in parts):
        if part.chart and not part.title.endswith("problems"):
            drawing = vl_convert.vegalite_to_svg(part.chart | LOOK)
            marks = r'(?:training|line|method): ([^";]*)[^>]*? (?:fill|stroke)="(#\w+)"'
            for name, colour in re.findall(marks, drawing):
                colours.setdefault(name.removesuffix(", seed 43"), set()).add(colour)
    assert colours.keys() == {*map(model_text, models), "dense"}
    assert len(set.union(*colours.values())) == sum(map(len, colours.values())) == len(colours)


def test_an_axis_of_layers_has_whole_numbers():
    rows = [{"mixture": "m", "layer": layer, "spread": layer / 9} for layer in (2, 3)]
    chart = lines(rows, ("mixture", "layer", "spread"), ("layer", "spread, %"))["chart"]
    drawing = vl_convert.vegalite_to_svg(chart | LOOK)
    axis = re.search("X-axis.*?role-axis-title", drawing)[0]
    assert re.findall(">([^<>]+)</text>", axis) == ["2", "3"]


def test_an_unfinished_run_shows_what_there_is_and_names_what_is_missing(finished, tmp_path):
    metrics = (finished.results / "metrics" / "moe_sft.jsonl").read_text()
    write_whole(tmp_path / "metrics/sft.jsonl", metrics[: metrics.rfind("loss")])
    page = write_report(tmp_path)
    assert page.charts.keys() >= {"Loss", "Entropy of the routers"}
    note = page.text.partition("This run is not finished")[2].partition("Trainings")[0]
    for missing in ("runs.csv", "summary.md", "data/report.json", "config.yaml"):
        assert missing in note
    write_results(tmp_path, {"base": 3, "sft": 3})
    assert "not finished" not in write_report(tmp_path).text
    (tmp_path / "eval" / "sft" / "own.json").unlink()
    assert re.search('What is missing:\n.*eval of sft on "own" is', write_report(tmp_path).text)


def test_a_configuration_of_another_version_is_no_hindrance(tmp_path):
    write_results(tmp_path, {"base": 3})
    (tmp_path / "config.yaml").write_text("moe: {experts_of_tomorrow: 9}\n")
    page, written = write_report(tmp_path), (tmp_path / "report.html").read_bytes()
    assert "experts_of_tomorrow" in page.text
    assert "problems solved, %: base 15.0 (95% interval 5.2 to 36.0)." in page.text
    write_report(tmp_path)  # in place of the older one
    assert (tmp_path / "report.html").read_bytes() == written


def by_key(text: str) -> dict[str, object]:
    """The values of a configuration that a text begins with."""
    found = {}
    for name, value in yaml.safe_load(text.partition("\n\n")[0]).items():
        is_section = isinstance(value, dict)
        found |= {f"{name}.{key}": value[key] for key in value} if is_section else {name: value}
    return found


def test_the_configuration_and_the_prompts_are_shown(page, finished, repository):
    """What no result depends on is not shown: another folder may have the same report."""
    table = re.sub(r"\s+", " ", page.text)
    assert "base.model" in table and "resources/base" in table
    own = (finished.results / "config.yaml").read_text()
    values, shown = by_key(own), by_key(page.text[page.text.index("seed: 42\n") :])
    assert values | shown == values
    places = {"results_dir", "store", "stores", "publish", "gpus", "report_to"}
    assert values.keys() - shown.keys() == places | {f"{name}.save_minutes" for name in TRAININGS}
    with (repository / "resources" / "problems.jsonl").open() as file:
        prompts = [json.loads(next(file))["prompt"] for _ in range(4)]  # all that are evaluated
    assert [prompt for prompt in prompts if prompt not in page.text] == []


SECRET = "what the reader keeps at home"


def test_nothing_outside_of_the_folder_is_shown(tmp_path):
    """By a link, the table of runs, a link to solutions, or the problems of the configuration."""
    folder, home = tmp_path / "results", tmp_path / "home"
    home.mkdir()
    write_results(folder, {"base": 3, "sft": 3})
    (home / "summary.md").write_text(SECRET)
    solution = {"task_id": "T/0", "number": 0, "solution": SECRET}
    (home / "own.generations.jsonl").write_text(json.dumps(solution) + "\n")
    result = json.loads((folder / "eval/base/own.json").read_text())
    result["problems"][0]["failed_call"] = SECRET
    (home / "own.json").write_text(json.dumps(result))
    prompt = f'def add(a, b):\n    """{SECRET}"""\n'
    write_problems(home / "own.jsonl", [three_problems()[0] | {"task_id": "T/0", "prompt": prompt}])

    for link in (folder / "summary.md", folder / "eval/sft/own.generations.jsonl"):
        link.unlink()
        link.symlink_to(home / link.name)
    table = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(table.replace("eval/base/own.json", str(home / "own.json")))
    config = {"base": {"model": "m"}, "data": {"train": "t"}}
    config["evaluation"] = {"datasets": [str(home / "own.jsonl")]}
    (folder / "config.yaml").write_text(json.dumps(config))
    page = write_report(folder)
    assert SECRET not in page.text
    assert "sft" in page.text


def test_links_into_a_store_are_followed_and_others_are_not(tmp_path):
    write_results(tmp_path / "results", {"base": 3})
    made = tmp_path / "store" / "sft" / ("0" * 16) / "metrics.jsonl"
    write_whole(made, '{"step": 1, "loss": 0.5}\n')
    (tmp_path / "results" / "metrics").mkdir()
    (tmp_path / "results" / "metrics" / "sft.jsonl").symlink_to(made)
    point = "loss, nats per token: 0.5 (sft, optimiser step 1)."
    assert point not in write_report(tmp_path / "results").text
    (tmp_path / "store" / MARK).write_text("{}")
    assert point in write_report(tmp_path / "results").text


def test_nan_is_a_gap(tmp_path):
    write_results(tmp_path, {"base": 3})
    losses = (1.0, float("nan"), float("inf"), 1.0)
    lines = (
        {"step": step, "loss": loss, "learning_rate": loss, "entropy": [loss], "load": [[loss, 1]]}
        for step, loss in enumerate(losses)
    )
    write_whole(tmp_path / "metrics/sft.jsonl", "".join(json.dumps(x) + "\n" for x in lines))
    layers = [{"layer": layer, "spread": (None, 0.5, 0.6)[layer]} for layer in range(3)]
    (tmp_path / "diversity.json").write_text(json.dumps({"layers": layers}))
    charts = write_report(tmp_path).charts
    assert {r["layer"]: r["spread"] for r in charts["Spread of the experts"]} == {1: 50, 2: 60}
    assert [row["loss"] for row in charts["Loss"]] == [1, None, None, 1]
    assert [row["smoothed"] for row in charts["Loss"]] == pytest.approx([1, None, None, 1])
    assert "Entropy of the routers" in charts


BEYOND_FLOATS = f'{{"step": 1, "loss": {"9" * 4000}}}\n'


def test_what_is_no_results_folder_gets_one_message(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        write_report(tmp_path / "nowhere")
    for file, text, message in (
        ("metrics/sft.jsonl", BEYOND_FLOATS, "what step sft writes"),
        ("report.html", "mine", "is no report"),
        ("eval/base/own.generations.jsonl", "{\n", "not a file of JSON objects"),
    ):
        folder = tmp_path / file
        write_results(folder, {"base": 3})
        write_whole(folder / file, text)
        with pytest.raises(UserError, match=message):
            write_report(folder)


def test_a_mixture_of_another_trainer_has_no_flops(finished):
    folder, table = Folder(finished.results), read_table(finished.results / "dense/lam~0.75")
    key = folder.results.models["moe_sft", ""]
    for known, has_flops in (({}, True), ({"inputs": {}, "parameters": {"base": {}}}, False)):
        folder.costs.made[key] |= known
        assert bool(folder.flops_to_make(folder.costs, table, key)) == has_flops
