"""What runs again, and what does not."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from project import Project

LAMBDA_CHAIN = ["dense", "eval", "report", "summary", "weighted_init", "weighted_trained"]
FROM_FFN = ["ffn", "diversity", *LAMBDA_CHAIN]
FROM_MOE_SFT = ["moe_sft", *FROM_FFN, "eval"]


# Imported by each step's Python before anything else: `summary` waits until it may go on.
WAIT = """
import sys, time
from pathlib import Path

if "workflow_scripts.summary" in sys.orig_argv:
    while not Path("go").exists():
        time.sleep(0.05)
"""


@pytest.fixture
def project(finished_copy) -> Project:
    return finished_copy


def touch_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)


# Times and places


def test_copying_moving_and_touching_run_nothing(project):
    moved = project.folder.rename(project.folder.with_name("moved"))
    touch_all(moved)
    assert Project(moved, project.overlay).run() == []


@pytest.mark.parametrize("place", ["resources", "results"])
def test_touching_one_side_alone_runs_nothing(project, place):
    touch_all(project.folder / place)
    assert project.run("--dry-run") == []


def test_a_clone_with_the_results_of_another_runs_nothing(finished, new_project):
    clone = new_project("clone")
    touch_all(clone.folder)
    shutil.copytree(finished.results, clone.results, symlinks=True, copy_function=shutil.copy)
    assert clone.run() == []
    assert clone.run("--dry-run", moe_sft={"learning_rate": 0.5}) == sorted(FROM_MOE_SFT)


def test_without_snakemakes_own_records_manifests_decide(project):
    shutil.rmtree(project.folder / ".snakemake")
    rules = ["moe", *FROM_MOE_SFT]
    assert project.run("--dry-run", moe_sft={"learning_rate": 0.01}) == sorted(FROM_MOE_SFT)
    assert Project(project.folder, project.overlay | {"seed": 7}).run("--dry-run") == sorted(rules)
    assert project.run() == []


# Parameters


def test_other_trackers_run_nothing(project):
    overlay = project.overlay | {"report_to": ["tensorboard", "mlflow"]}
    assert Project(project.folder, overlay).run("--dry-run") == []


# Contents


def test_other_rows_in_place_run_the_trainings(project):
    rows = project.folder / "resources" / "instructions.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[1:]))
    assert project.run("--dry-run") == sorted(["tokens", *FROM_MOE_SFT])


def test_another_revision_of_rows_on_the_hub_makes_the_tokens_again(project, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    revisions = ["0" * 40, "1" * 40]
    for revision in revisions:
        snapshot = cache / "datasets--org--name" / "snapshots" / revision
        snapshot.mkdir(parents=True)
        shutil.copy(project.folder / "resources" / "instructions.jsonl", snapshot / "rows.jsonl")
    first, second = ({"train": "org/name/rows.jsonl", "revision": r} for r in revisions)
    project.run("--until", "tokens", data=first)
    assert project.run("--dry-run", "--until", "tokens", data=first) == []
    assert project.run("--dry-run", "--until", "tokens", data=second) == ["fetch_data", "tokens"]


def test_another_base_in_place_runs_everything(project):
    config = project.folder / "resources" / "base" / "config.json"
    config.write_text(config.read_text() + " ")
    rules = ["base", "eval", "moe", "tokens", *FROM_MOE_SFT]
    assert project.run("--dry-run") == sorted(rules)


def test_other_problems_in_place_run_the_evaluations_and_the_decontamination(project):
    problems = project.folder / "resources" / "problems.jsonl"
    problems.write_text(problems.read_text() + "\n")
    assert project.run("--dry-run") == sorted(["ground_truth", "tokens", "eval", *FROM_MOE_SFT])
    # The rows that are left are the same: no training runs again.
    assert project.run("--until", "tokens") == ["tokens"]
    assert project.run("--dry-run") == ["eval", "eval", "eval", "ground_truth", "report", "summary"]


@pytest.mark.parametrize(
    ("result", "rules"),
    [
        ("eval/base/problems.json", ["eval", "report", "summary"]),
        ("summary.csv", ["report", "summary"]),
        ("report.html", ["report"]),
    ],
)
def test_a_result_without_its_manifest_is_made_again(project, result, rules):
    """Nothing says how it was made: a step may have been killed before it wrote the manifest."""
    (project.results / f"{result}.manifest.json").unlink()
    assert project.run("--dry-run") == rules


def test_another_template_in_place_runs_what_is_tuned_with_it(project):
    template = project.folder / "template.txt"
    template.write_text("{instruction}\n")
    chosen = {"data": {"template": "template.txt"}}
    assert project.run("--until", "tokens", **chosen) == ["tokens"]
    assert project.run("--dry-run", "--until", "tokens", **chosen) == []
    template.write_text("Do: {instruction}\n")
    assert project.run("--dry-run", **chosen) == sorted(["tokens", *FROM_MOE_SFT])


# Code


@pytest.mark.parametrize(
    ("modules", "rules"),
    [
        (
            [
                "workflow_scripts/best.py",
                "xft/cli/flags.py",
                "xft/common/errors.py",
                "xft/common/progress.py",
                "xft/config/sections.py",
                "xft/conversions/reference.py",
                "xft/reporting/cards/__init__.py",
                "xft/tools/import_reference.py",
                "xft/tools/verify.py",
            ],
            [],
        ),
        (["xft/reporting/tables.py"], ["report", "summary"]),
        (
            ["xft/evaluation/runner.py"],
            ["eval", "eval", "eval", "ground_truth", "report", "summary"],
        ),
        (["xft/conversions/merge.py"], ["diversity", *LAMBDA_CHAIN]),
        (["xft/modeling/mixing.py"], ["dense", "eval", "report", "summary", "weighted_trained"]),
        (["xft/conversions/extract.py"], FROM_FFN),
        (["xft/evaluation/references.py"], ["tokens", *FROM_MOE_SFT]),
    ],
    ids=lambda value: value[0] if value and value[0].endswith(".py") else "",
)
def test_edited_code_runs_the_steps_that_import_it(project, modules, rules):
    for module in modules:
        file = project.folder / module
        file.write_text(file.read_text() + "\nEDITED = True\n")
    done = project.snakemake("--dry-run")
    assert sorted(project.rules(done)) == sorted(rules)
    for module in modules if rules else []:
        assert f"the code of {module} has changed" in done.stderr


def test_a_comment_runs_nothing(project):
    for package in ("xft", "workflow_scripts"):
        for file in (project.folder / package).rglob("*.py"):
            file.write_text(file.read_text() + "\n# edited\n")
    assert project.run("--dry-run") == []


# Snakemake's own ways


def test_touch_accepts_other_code_and_no_other_parameters(project):
    file = project.folder / "xft" / "conversions" / "extract.py"
    file.write_text(file.read_text() + "\nEDITED = True\n")
    assert "ffn" in project.run("--dry-run")
    project.run("--touch")
    assert project.run() == []
    changed = {"moe_sft": {"learning_rate": 0.5}}
    project.run("--touch", **changed)
    assert project.run("--dry-run", **changed) == sorted(FROM_MOE_SFT)


def test_until_and_forcerun(project):
    changed = {"moe_sft": {"learning_rate": 0.5}}
    assert project.run("--dry-run", "--until", "ffn", **changed) == ["ffn", "moe_sft"]
    assert project.run("--dry-run", "--forcerun", "dense") == ["dense", "eval", "report", "summary"]


def test_another_results_folder_is_another_run(project, tmp_path):
    overlay = project.overlay | {"results_dir": str(tmp_path / "elsewhere")}
    assert len(Project(project.folder, overlay).run("--dry-run")) == 15


def test_another_working_directory(project, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(project.folder / "config.yaml", place)
    shutil.copytree(project.folder / "resources", place / "resources")
    elsewhere = ["--snakefile", str(project.folder / "Snakefile"), "--directory", str(place)]
    assert project.run(*elsewhere, "--until", "moe") == ["base", "moe"]
    assert (place / "results" / "moe.manifest.json").exists()
    assert project.run(*elsewhere, "--until", "moe") == []
    assert project.run() == []


def test_a_second_run_at_the_same_time_is_refused(project):
    (project.folder / "sitecustomize.py").write_text(WAIT)
    first = subprocess.Popen(
        project.command("--forcerun", "summary"),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    locks = project.folder / ".snakemake" / "locks"
    while not list(locks.glob("*")):
        assert first.poll() is None
        time.sleep(0.05)
    second = project.snakemake("--forcerun", "summary")
    assert second.returncode != 0
    assert "LockException" in second.stdout + second.stderr
    (project.folder / "go").touch()
    assert first.wait() == 0
    assert project.run() == []


def test_a_missing_model_is_made_again_when_it_is_asked_for(project, artifact_hashes):
    before = artifact_hashes(project)
    shutil.rmtree(project.results / "dense")
    assert project.run() == []
    assert project.run("results/dense/lam~0.75.manifest.json") == ["dense"]
    assert artifact_hashes(project) == before
