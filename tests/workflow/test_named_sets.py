"""HumanEval+ and MBPP+ in the workflow: one rule brings their files, all others are given them."""

import gzip
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from project import Project

from xft.hub.named_sets import HUMANEVAL

# All that reads problems, without the trainings.
TARGETS = ["results/tokens.manifest.json", "results/eval/base/humaneval.json"]
NAMED = {"datasets": ["humaneval"], "limit": 2}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine on which neither EvalPlus nor a variable has any problems."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HUMANEVAL_OVERRIDE_PATH", raising=False)
    monkeypatch.delenv("MBPP_OVERRIDE_PATH", raising=False)


def commands(project: Project, **config) -> dict[str, set[str]]:
    """The problems in the commands that a dry run shows, by step."""
    done = project.snakemake("--dry-run", "--printshellcmds", **config)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for step, flags in re.findall(r"workflow_scripts\.(\w+) (.+)", done.stdout):
        for given in re.findall(r"--(?:dataset|problems) ([^-]+) --", flags):
            found.setdefault(step, set()).add(given)
    return found


def test_one_rule_fetches_and_the_others_are_given_the_files(new_project):
    names = ["mbpp", "resources/problems.jsonl"]
    sets = {"evaluation": {"datasets": names}, "data": {"decontaminate_against": names}}
    assert commands(new_project("dry"), **sets) == {
        "fetch_problems": {"mbpp"},
        "tokens": {"results/problems/mbpp.jsonl resources/problems.jsonl"},
        "ground_truth": {"results/problems/mbpp.jsonl", "resources/problems.jsonl"},
        "eval": {"results/problems/mbpp.jsonl", "resources/problems.jsonl"},
    }


def test_without_decontamination_the_tokens_need_no_problems(new_project):
    project = new_project("all")
    assert "tokens" not in commands(project, data={"decontaminate_against": []}, evaluation=NAMED)


def test_what_needs_the_network_runs_where_snakemake_runs(repository):
    local = re.search(r"localrules:\n((?: +\w+,\n)+)", (repository / "Snakefile").read_text())[1]
    assert {"base", "fetch_data", "fetch_problems"} <= set(re.findall(r"\w+", local))


@pytest.fixture(scope="module")
def pinned(new_project):
    """A project in which the embedded problems are the pinned release, and their file."""
    project = new_project("pinned")
    problems = project.folder / "resources" / "problems.jsonl"
    module = project.folder / "xft" / "hub" / "named_sets.py"
    sha256 = hashlib.sha256(problems.read_bytes()).hexdigest()
    module.write_text(module.read_text().replace(HUMANEVAL.sha256, sha256))
    return project, problems.rename(project.folder.parent / "release.jsonl")


def run(project: Project, *arguments: str) -> list[str]:
    data = {"decontaminate_against": NAMED["datasets"]}
    return project.run(*TARGETS, *arguments, evaluation=NAMED, data=data)


def test_what_was_fetched_is_all_that_is_needed(pinned, tmp_path, monkeypatch):
    """Where the problems came from may go, or change, as long as the content is the same."""
    project, release = pinned
    cached = tmp_path / "cache" / "evalplus" / "HumanEvalPlus-v0.1.10.jsonl"
    cached.parent.mkdir(parents=True)
    shutil.copy(release, cached)
    assert run(project) == ["base", "eval", "fetch_problems", "ground_truth", "tokens"]
    fetched = project.results / "problems" / "humaneval.jsonl"
    assert fetched.read_bytes() == release.read_bytes()

    cached.unlink()
    for file in fetched.parent.iterdir():
        os.utime(file)
    assert run(project) == []

    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(write_packed(tmp_path, release.read_bytes())))
    fetching = project.folder / "xft" / "hub" / "problem_sets.py"
    fetching.write_text(fetching.read_text() + "\n# edited\n")
    assert run(project) == []

    # Snakemake does not look at the parameters of what stands below a rule that runs.
    write_packed(tmp_path, release.read_bytes() + b"\n")
    assert run(project) == ["eval", "fetch_problems", "ground_truth", "tokens"]
    assert fetched.read_bytes() == release.read_bytes() + b"\n"


def write_packed(folder: Path, content: bytes) -> Path:
    file = folder / "mine.jsonl.gz"
    file.write_bytes(gzip.compress(content))
    return file


def test_a_variable_that_names_no_file_stops_the_workflow(new_project, tmp_path, monkeypatch):
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(tmp_path / "gone.jsonl"))
    done = new_project("gone").snakemake("--dry-run", evaluation=NAMED)
    assert done.returncode != 0
    assert "HUMANEVAL_OVERRIDE_PATH names " in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
