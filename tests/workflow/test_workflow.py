"""The real workflow on the embedded base: what it makes, what it makes again, what it refuses."""

import base64
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from project import Project

from xft.artifacts.claims import OWNER
from xft.reporting.summaries import head

TEXT = {"capture_output": True, "text": True}
LAMBDA_CHAIN = ["dense", "eval", "report", "summary", "weighted_init", "weighted_trained"]
BEFORE_DENSE = ["weighted_init", "weighted_trained"]
ALL = ["base", "tokens", "ground_truth", "moe", "moe_sft", "ffn", "diversity", *LAMBDA_CHAIN]
ALL += ["eval", "eval"]


def everything(folder: Path) -> dict[str, bytes]:
    """The content of each file of the user's and of each result, but for the locks of a run."""
    passing = {".snakemake", "__pycache__", "plans", ".owner"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in files if passing.isdisjoint(path.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_each_rule_runs_once(finished, repository):
    assert json.loads((finished.folder / "ran.json").read_text()) == sorted(ALL)
    for name, content in everything(repository / "resources").items():
        assert (finished.folder / "resources" / name).read_bytes() == content


def test_another_lambda_runs_its_chain_alone_wherever_the_store_is(finished_copy, artifact_hashes):
    """Copied, moved, all files touched, and without Snakemake's own records."""
    before = artifact_hashes(finished_copy)
    moved = finished_copy.folder.rename(finished_copy.folder.with_name("moved"))
    shutil.rmtree(moved / ".snakemake")
    for path in moved.rglob("*"):
        if path.is_file():
            os.utime(path)
    project = Project(moved, finished_copy.overlay)
    earlier = (project.results / "summary.md").read_text()
    done = project.snakemake(merge={"lambdas": [0.85]})
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert project.rules(done) == LAMBDA_CHAIN
    steps = re.findall(r"(\d of \d) steps \(\d+%\)", done.stderr)
    assert steps == [f"{number} of 7" for number in range(1, 8)]
    after = artifact_hashes(project)
    tables = {"summary.csv", "summary.md", "summary.json", "comparisons.csv"}
    tables.add("summary.csv.manifest.json")
    tables.add("runs.csv")
    kept = {name for name in before if "lam~0.75" not in name} - tables
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    assert not [name for name in after if "lam~0.75" in name]

    lines = (project.results / "summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["model", "base", "moe_sft", "dense/lam~0.85"]
    assert re.search(r"^\[[\d:]{8}\] report: report.html$", shown, re.M)
    assert not re.search("Select|Execute|jobid|resources:", shown)
    assert head((project.results / "summary.md").read_text()) in done.stdout
    assert re.search("^store holds .* of it for no configuration: xft gc store$", done.stdout, re.M)

    done = project.snakemake()  # back to the lambda before
    assert project.rules(done) == [] and done.stdout.startswith(f"{head(earlier)}\n")
    assert artifact_hashes(project) == before


@pytest.mark.ci
def test_a_mixture_that_was_tuned_elsewhere_stands_in_place_of_the_training(finished_copy):
    """The same weights become the same merged model."""
    folder, results = finished_copy.folder, finished_copy.results
    shutil.copytree(results / "moe_sft", folder / "mine")
    merged = results / "dense/lam~0.75/model.safetensors"
    before, trained_here = merged.read_bytes(), merged.resolve()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["moe_sft"] = {"model": "mine"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    overlay = finished_copy.overlay
    finished_copy.overlay = {key: overlay[key] for key in overlay.keys() - {"moe_sft"}}
    done = finished_copy.snakemake("results/dense/lam~0.75", "results/diversity.json")
    made = ["base", "dense", "diversity", "ffn", "weighted_init", "weighted_trained"]
    assert finished_copy.rules(done) == made and done.returncode == 0, done.stderr
    assert merged.read_bytes() == before and merged.resolve() != trained_here
    assert (results / "moe_sft/model.safetensors").resolve() == folder / "mine/model.safetensors"
    assert "WARNING: moe: " not in done.stderr


def test_what_makes_nothing_changes_nothing_and_works_beside_a_run(finished_copy):
    owner = os.open(finished_copy.folder / "store" / f".{OWNER}", os.O_RDWR)
    fcntl.flock(owner, fcntl.LOCK_EX)
    (finished_copy.results / "moe_sft").unlink()
    rate = {"learning_rate": 1.5}
    before = everything(finished_copy.results)
    shutil.rmtree(finished_copy.folder / ".snakemake")
    done = finished_copy.snakemake("-n", "results/moe_sft", moe_sft=rate)
    assert done.returncode == 0
    assert done.stderr.count("WARNING: moe_sft.learning_rate = 1.5: with such a rate") == 1
    assert "\nby_name: results/moe_sft\n" in done.stdout
    assert not re.search("lock|metadata", done.stdout + done.stderr)
    assert everything(finished_copy.results) == before
    shown = finished_copy.snakemake("-n").stdout
    assert "results lacks 1 name of them, such as results/moe_sft: a run lays them" in shown
    refused = finished_copy.snakemake("results/moe_sft", data={"train": "gone.jsonl"})
    assert refused.returncode == 1 and "store is in use by" in refused.stderr
    assert "gone.jsonl" not in refused.stderr  # nothing was read
    os.close(owner)


def test_no_job_begins_where_one_asks_for_a_gpu_and_there_is_none(finished_copy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = finished_copy.snakemake(gpus=1, seed=7)
    assert done.returncode == 1 and finished_copy.rules(done) == []
    assert done.stderr.splitlines()[-1].startswith("gpus = 1: ")


def entries(project: Project) -> dict[str, tuple[int, bytes]]:
    """All entries of the store with their logs, but for the links that Snakemake knows as logs."""
    paths = [path for path in project.folder.glob("store/[a-z]*/**/[!.]*") if path.is_file()]
    kept = [path for path in paths if not path.match("plans/*") and not path.match("*.job.log")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


def test_a_job_that_starts_for_a_whole_entry_keeps_it(finished_copy):
    """As when a later version has another command for the rule."""
    before = entries(finished_copy)
    rules = finished_copy.folder / "rules" / "mixture.smk"
    rules.write_text(rules.read_text().replace("workflow_scripts.moe ", "workflow_scripts.moe  "))
    triggers = "--rerun-triggers", "code", "params", "mtime", "input", "software-env"
    assert finished_copy.run(*triggers) == ["moe"]
    assert entries(finished_copy) == before


@pytest.mark.ci
def test_two_stores_are_compared_by_the_documented_command(finished_copy, repository):
    """Trainings and merges repeat to the byte. One entry is altered then."""
    documented = re.search(r"^diff .*", (repository / "docs/caching.md").read_text(), re.MULTILINE)

    def differ() -> str:
        done = subprocess.run(shlex.split(documented[0]), cwd=finished_copy.folder, **TEXT)
        assert not done.stderr
        return done.stdout

    shutil.copytree(finished_copy.folder / "store", finished_copy.folder / "before", symlinks=True)
    merged = finished_copy.results / "dense/lam~0.75/generation_config.json"
    for name in ("moe_sft", "dense/lam~0.75", "summary.csv"):
        shutil.rmtree((finished_copy.results / name).resolve().parent)
    made = finished_copy.run("all", "results/moe_sft", "results/dense/lam~0.75")
    assert {"dense", "moe_sft", "summary"} <= {*made}
    assert differ() == ""
    merged.chmod(0o644)
    merged.write_text(merged.read_text() + "\n")
    assert merged.resolve().parent.name in differ()


@pytest.mark.ci
def test_an_option_of_snakemakes_does_what_the_documents_say(finished):
    before = entries(finished)
    for words, lam, rules, told in (
        ("-n -F", 0.75, [], "after deleting its entry: which `readlink -f results/NAME` shows. To"),
        ("-n -R moe_sft", 0.75, [], r"after deleting its entry: store/moe_sft/\w{16}\. To"),
        ("-n -f results/dense/lam~0.75", 0.75, [], r" its entry: store/dense/\w{16}\. To"),
        ("-n --until dens", 0.75, [], "^--until dens: .* did you mean dense?"),
        ("-n results/none", 0.75, [], r"^results/none is no .*\n(.*\n)*  results/dense/lam~0.75$"),
        ("--touch", 0.85, [], "--touch does nothing here"),
        ("-n --delete-a", 0.75, [], "--delete-all-output: other configurations .*`xft gc store`"),
        ("-n dense", 0.75, [], "^The name of a result begins with the results folder"),
        ("--dag", 0.85, [], r'label = "eval\\neval/dense/lam~0\.85/problems\.json"'),
        ("-n --omit-from dense", 0.85, BEFORE_DENSE, "lam~0.85"),
        ("-n --omit-from results/dense/lam~0.85", 0.85, BEFORE_DENSE, ""),
    ):
        done = finished.snakemake(*words.split(), merge={"lambdas": [lam]})
        shown = done.stdout + done.stderr
        assert finished.rules(done) == rules
        assert re.search(told, shown, re.MULTILINE) and "Traceback" not in shown
        assert done.returncode == bool(re.search(r"--delete|-n dense$|-[FRf]\b|dens$|none", words))
        assert entries(finished) == before


def test_a_failed_job_gets_more_tells_its_message_at_once_and_the_others_go_on(finished_copy):
    """The evaluation that does not need the tokens begins last, since its priority is lower."""
    store = finished_copy.folder / "store"
    before = everything(store)
    variants = {"short": {"data": {"max_length": 8}}, "other": {"merge": {"lambdas": [0.85]}}}
    done = finished_copy.snakemake("--retries", "1", "--cores", "1", variants=variants)
    assert done.returncode == 1 and {*BEFORE_DENSE, "dense", "eval"} <= {*finished_copy.rules(done)}
    (*_, log) = sorted((finished_copy.folder / ".snakemake" / "log").iterdir())
    asked = r" runtime=(\d+),.* label=data\.max_length~8/tokens, mem_mb=(\d+),"
    assert re.findall(asked, log.read_text()) == [("120", "8000"), ("240", "12000")]
    shown = done.stdout + done.stderr
    job = "data.max_length~8/tokens"
    failed = f"{job} failed"
    said = "no row has a response within max_length = 8 tokens"
    assert shown.count(f"{failed}: {said} (log: store/logs/tokens/") == 2  # at once, each attempt
    lines = list(filter(None, done.stderr.splitlines()))[-3:]
    assert lines[0] == f"{failed}: {said}"
    assert re.fullmatch(r"\(log: store/logs/tokens/\w+\.log\)", lines[1])
    again = f"The same command would fail again: first correct the cause of {job}. "
    assert lines[2] == f"{again}Finished results are kept."
    assert shown.count(said) == 3
    assert "Error in rule tokens:" in log.read_text()
    after = everything(store)
    for name, content in before.items():
        assert after[name] == content or name == ".memory.json"


def test_a_mistake_is_one_message_and_nothing_changes(new_project):
    project = new_project("mine")
    shutil.copytree(project.folder / "resources" / "base", project.folder / "P" / "base")
    (project.folder / "P/base/chat_template.jinja").write_text("{{ raise_exception('no') }}")
    before = everything(project.folder)
    done = project.snakemake(base={"model": "P/base"}, data={"template": "chat"})
    shown = done.stdout + done.stderr
    assert done.returncode == 1
    told = "config: the chat template of P/base refuses a row: no. Put another one into"
    assert told in shown.splitlines()[-1]
    assert "Traceback" not in shown and "rule " not in shown
    assert everything(project.folder) == before


@pytest.mark.ci
def test_paths_may_hold_anything(new_project):
    project = new_project("names")
    folder = project.folder / "my data ü (1)" / "~; touch x; 'x' $(touch x) `touch x` | tee x"
    folder.mkdir(parents=True)
    rows, problems = folder / "rows 1 (a).jsonl", folder / "own $(touch x) problems & co.jsonl"
    shutil.copy(project.folder / "resources" / "instructions.jsonl", rows)
    shutil.copy(project.folder / "resources" / "problems.jsonl", problems)
    shutil.copytree(project.folder / "resources" / "base", folder / "base model")
    config = project.overlay | {"base": {"model": str(folder / "base model")}}
    config |= {"results_dir": str(folder / "my results"), "store": str(folder / "my store")}
    data = {"train": str(rows), "limit": 64, "decontaminate_against": [str(problems)]}
    config["data"] = data
    config["evaluation"] = config["evaluation"] | {"datasets": [str(problems)], "models": ["base"]}
    (project.folder / "mine.json").write_text(json.dumps(config))
    mine = Project(project.folder, {})
    targets = "all", str(folder / "my results" / "moe_sft")
    ran = mine.run(*targets, "--configfile", "mine.json")
    expected = ["base", "eval", "ground_truth", "moe", "moe_sft", "report", "summary", "tokens"]
    assert ran == expected
    names = {path.name for path in project.folder.iterdir()}
    assert not names & {"my", "data", "x", "results"}


def test_snakemakes_own_report_holds_the_page_the_tables_and_the_figures(finished_copy):
    entry = (finished_copy.results / "moe_sft").resolve().parent
    name = str(entry.relative_to(finished_copy.folder.resolve())).encode()
    mark = Path(".snakemake/incomplete", base64.urlsafe_b64encode(name).decode())
    (finished_copy.folder / mark).write_text("{}")  # Snakemake stopped before it saw the job's end
    done = finished_copy.snakemake("--report", "all.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(finished_copy.folder / "all.zip") as zipped:
        held = {zipped.read(name) for name in zipped.namelist() if "/data/" in name}
        page = zipped.read("all/report.html").decode()
    figures = sorted(finished_copy.results.glob("figures/*/*.svg"))
    assert {file.parent.name for file in figures} == {"scores", "cost", "differences", "training"}
    for file in (*(finished_copy.results / n for n in ("report.html", "summary.csv")), *figures):
        assert file.read_bytes() in held
        assert file.stem in page
    for caption in ("a row for each pair", "The whole report"):
        assert caption in page
