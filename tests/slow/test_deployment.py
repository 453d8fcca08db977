"""The workflow as snakedeploy deploys it from GitHub. GitHub is a repository on this machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import QUICK

pytestmark = pytest.mark.slow
URL = "https://github.com/owner/xft"


def run(folder: Path, *words: str) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def snakemake(folder: Path, packages: Path, *words: str) -> subprocess.CompletedProcess:
    """A run with an interpreter of its own, since a fork has imported the steps from here."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def github(new_project, tmp_path_factory):
    """git finds this project at `URL`, with the tag v1."""
    folder = new_project("github").folder
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "Test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@localhost")
        run(folder, "git", "init", "--quiet")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", "All")
        run(folder, "git", "tag", "v1")
        patch.setenv("GIT_CONFIG_COUNT", "1")
        patch.setenv("GIT_CONFIG_KEY_0", f"url.{folder.as_uri()}.insteadOf")
        patch.setenv("GIT_CONFIG_VALUE_0", URL)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def packages(github, tmp_path_factory) -> Path:
    """A folder of Python packages that holds this project's package alone."""
    folder = tmp_path_factory.mktemp("packages")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation")
    run(folder, *pip, "--target", str(folder), f"git+{URL}@v1")
    return folder


@pytest.fixture
def deployed(tmp_path) -> Path:
    """The folder that snakedeploy writes."""
    run(tmp_path, "snakedeploy", "deploy-workflow", URL, "mine", "--tag", "v1")
    return tmp_path / "mine"


def test_the_package_holds_every_file_of_the_steps(packages, repository):
    folders = (repository / "workflow_scripts", repository / "xft")
    files = [file for folder in folders for file in folder.rglob("*.*") if file.is_file()]
    names = {str(file.relative_to(repository)) for file in files if file.suffix != ".pyc"}
    assert len(names) > 100
    assert {name for name in names if not (packages / name).is_file()} == set()


def test_a_deployment_makes_what_a_clone_makes(deployed, packages, repository):
    """With a config that is edited as its user does."""
    resources = repository / "resources"
    problems = str(resources / "problems.jsonl")
    rows = {"train": str(resources / "instructions.jsonl"), "decontaminate_against": [problems]}
    config = QUICK | {"base": {"model": str(resources / "base")}, "data": QUICK["data"] | rows}
    config |= {"evaluation": QUICK["evaluation"] | {"datasets": [problems]}}
    (deployed / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    wanted = ["results/base", "results/tokens"]
    done = snakemake(deployed, packages, *wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    for package in ("workflow_scripts", "xft"):
        linked = deployed / ".snakemake" / "xft-steps" / package
        assert linked.samefile(packages / package)
    clone = ("--snakefile", str(repository / "Snakefile"), "--configfile", "config/config.yaml")
    again = snakemake(deployed, packages, *wanted, *clone)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_package_of_another_version_is_refused(deployed, packages, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(packages, older)
    (information,) = older.glob("*.dist-info/METADATA")
    text = re.sub("^Version: .*", "Version: 0.0.1", information.read_text(), flags=re.MULTILINE)
    information.write_text(text)
    done = snakemake(deployed, older, "--dry-run")
    assert done.returncode == 1
    assert "which has 0.0.1" in done.stderr
    assert f'pip install "xft-pipeline[workflow] @ git+{URL}@v1"' in done.stderr
    assert "Traceback" not in done.stderr
