"""What the workflow did not make is not touched; what it made stays until it is replaced."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from project import Project

# Imported by each step's Python before anything else: the training of the mixture stops there for
# good, once it has said so.
STUCK = """
import sys, time
from pathlib import Path

if "workflow_scripts.moe_sft" in sys.orig_argv:
    Path("stuck").touch()
    time.sleep(600)
"""


@pytest.fixture
def project(finished_copy) -> Project:
    return finished_copy


def everything(folder: Path) -> dict[str, bytes]:
    """The content of each file of the user's and of each result."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {".snakemake", "__pycache__"} & set(path.parts)
    }


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"base": {"model": "P/base"}, "results_dir": "P"},
            "config: base.model: P/base is, holds or lies in P/base, where the workflow writes",
        ),
        (
            {"data": {"train": "P/tokens/rows.jsonl"}, "results_dir": "P"},
            "config: data.train: P/tokens/rows.jsonl is, holds or lies in P/tokens",
        ),
        ({"results_dir": "Q"}, "Q/moe is there but is no artifact: it has no manifest. Move it"),
    ],
)
def test_what_is_the_users_stops_the_run_untouched(new_project, overlay, message, dry):
    project = new_project("mine")
    shutil.copytree(project.folder / "resources" / "base", project.folder / "P" / "base")
    (project.folder / "P" / "tokens").mkdir()
    rows = project.folder / "resources" / "instructions.jsonl"
    shutil.copy(rows, project.folder / "P" / "tokens" / "rows.jsonl")
    (project.folder / "Q" / "moe").mkdir(parents=True)
    (project.folder / "Q" / "moe" / "thesis.tex").write_text("years of work")
    before = everything(project.folder)
    mine = Project(project.folder, project.overlay | overlay)
    done = mine.snakemake(*(["--dry-run"] if dry else []))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert everything(project.folder) == before


def test_a_file_among_the_figures_stops_a_run_that_would_replace_them(project):
    (project.results / "figures" / "mine.svg").write_text("years of work")
    assert project.snakemake("--dry-run").returncode == 0
    (project.results / "report.html.manifest.json").unlink()
    done = project.snakemake("--dry-run")
    assert done.returncode != 0
    assert "results/figures/mine.svg is not in the manifest" in done.stderr


def test_a_failed_rule_leaves_what_was_there(project):
    before = everything(project.results)
    rows = project.folder / "resources" / "instructions.jsonl"
    good = rows.read_text()
    rows.write_text(good + '{"instruction": "a"}\n')
    done = project.snakemake(data={"limit": 4000})
    assert done.returncode != 0
    message = "line 2601: no column 'response'"
    assert done.stderr.rindex(message) > done.stderr.rindex("Exiting because a job")
    after = everything(project.results)
    for kept in ("tokens", "moe_sft", "eval"):
        assert {n: b for n, b in after.items() if n.startswith(kept)} == {
            n: b for n, b in before.items() if n.startswith(kept)
        }
    rows.write_text(good)
    assert project.run() == []


def test_a_killed_run_leaves_what_was_there(project):
    """Snakemake and all its jobs killed, while a training with other settings has begun."""
    before = everything(project.results)
    sitecustomize = project.folder / "sitecustomize.py"
    sitecustomize.write_text(STUCK)
    changed = {"moe_sft": {"learning_rate": 0.5}}
    running = subprocess.Popen(
        project.command(**changed),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (project.folder / "stuck").exists():
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    sitecustomize.unlink()
    kept = everything(project.results)
    for name in before:
        assert kept[name] == before[name] or name.startswith(("logs/", "config.yaml"))
    assert project.snakemake("--unlock", **changed).returncode == 0
    assert project.run() == []
    assert "moe_sft" in project.run("--dry-run", **changed)


def test_a_second_training_is_refused_while_the_first_one_lives(project):
    """Snakemake alone was killed: its training goes on. The next start takes nothing from it."""
    from xft.artifacts.artifact import lock

    before = everything(project.results / "moe_sft")
    root = project.results / ".moe_sft.training"
    root.mkdir()
    (root / "owner").write_text("process 4711 on node7")
    with lock(root):
        done = project.snakemake("--until", "moe_sft", moe_sft={"learning_rate": 0.5})
    assert done.returncode != 0
    assert "in use: process 4711 on node7 trains for it now" in done.stderr
    assert everything(project.results / "moe_sft") == before
    assert project.run() == []


def test_paths_may_hold_anything(new_project):
    project = new_project("names")
    folder = project.folder / "my data ü (1)" / "$HOME; touch x; 'x' $(touch x) `touch x` | tee x"
    folder.mkdir(parents=True)
    rows, problems = folder / "rows 1 (a).jsonl", folder / "own $(touch x) problems & co.jsonl"
    shutil.copy(project.folder / "resources" / "instructions.jsonl", rows)
    shutil.copy(project.folder / "resources" / "problems.jsonl", problems)
    shutil.copytree(project.folder / "resources" / "base", folder / "base model")
    config = {
        **project.overlay,
        "results_dir": str(folder / "my results"),
        "base": {"model": str(folder / "base model")},
        "data": {"train": str(rows), "limit": 64, "decontaminate_against": [str(problems)]},
    }
    config["evaluation"] = config["evaluation"] | {"datasets": [str(problems)], "models": ["base"]}
    (project.folder / "mine.json").write_text(json.dumps(config))
    mine = Project(project.folder, {})
    done = mine.run("--configfile", "mine.json")
    assert done == ["base", "eval", "ground_truth", "report", "summary"]
    assert mine.run("--configfile", "mine.json") == []
    target = str(folder / "my results" / "moe_sft.manifest.json")
    assert mine.run(target, "--configfile", "mine.json") == ["moe", "moe_sft", "tokens"]
    names = {path.name for path in project.folder.iterdir()}
    assert not names & {"my", "data", "x", "results"}
