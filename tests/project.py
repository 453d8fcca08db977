"""A copy of the project in which the real Snakefile runs, with a config that takes a minute."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fork_server import PYTHON

# *.pyc.*: bytecode that another process writes just now. So may files of .hypothesis be.
NOT_COPIED = (".git", ".venv", ".snakemake", ".hypothesis", ".*cache", "*.pyc.*")
NOT_COPIED_AT_TOP = {"results", "store", "tests", "docs", "build"}
NO_BYTECODE = shutil.ignore_patterns("__pycache__")
QUICK = {
    "moe": {"num_experts": 4, "num_experts_per_tok": 3},
    "data": {"limit": 64, "validation_rows": 0},
    "moe_sft": {"max_steps": 3, "warmup_steps": 1, "per_device_train_batch_size": 4},
    "mixing": {"max_steps": 3, "per_device_train_batch_size": 4},
    "evaluation": {"models": ["base", "moe_sft", "dense"], "limit": 4, "max_new_tokens": 16},
}
# A job that begins, and a job of a dry run.
BEGINS = r"\[[\d:]+\] (?!all: |by_name: |file_by_name: )"
RULE = re.compile(rf"^(?:{BEGINS}|(?=.*/[0-9a-f]{{16}}\)$))(\w+): ", re.MULTILINE)


@dataclass
class Project:
    """A copy of the project. `overlay` is laid over its config in each run."""

    folder: Path
    overlay: dict

    @property
    def environment(self) -> dict[str, str]:
        programs = PYTHON.parent, Path(sys.executable).parent, os.environ["PATH"]
        return os.environ | {"PATH": ":".join(map(str, programs))}

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def words(self, *arguments: str, **config) -> list[str]:
        """Snakemake's arguments with more config laid over, a key per keyword."""
        sections = dict(self.overlay)
        for name, value in config.items():
            is_section = isinstance(value, dict)
            sections[name] = sections.get(name, {}) | value if is_section else value
        settings = [f"{name}={section!r}" for name, section in sections.items()]
        return ["--cores", "2", *arguments, "--config", *settings]

    def snakemake(self, *arguments: str, **config: dict) -> subprocess.CompletedProcess:
        """Run snakemake to its end, as a fork of the server."""
        words = [PYTHON, "-m", "snakemake", *self.words(*arguments, **config)]
        about = {"cwd": self.folder, "env": self.environment, "stdin": subprocess.DEVNULL}
        return subprocess.run(words, capture_output=True, text=True, **about)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen:
        """Start snakemake, in a session of its own. It writes to the file `log`."""
        about = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        words = [sys.executable, "-m", "snakemake", *self.words(*arguments)]
        with log.open("w") as file:
            return subprocess.Popen(words, stdout=file, stderr=file, **about)

    def run(self, *arguments: str, **config) -> list[str]:
        """Run snakemake, which must succeed. The rules whose jobs ran, sorted."""
        done = self.snakemake(*arguments, **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.rules(done)

    def rules(self, done: subprocess.CompletedProcess) -> list[str]:
        """The rules whose jobs ran, or would run, sorted, without those that make nothing."""
        return rules(done.stdout + done.stderr)


def rules(shown: str) -> list[str]:
    """The rules of the jobs that Snakemake showed, sorted, without those that make nothing."""
    return sorted(RULE.findall(shown))


def copy_project(repository: Path, folder: Path) -> Project:
    """A copy of the project, without results, at `folder`."""
    anywhere = shutil.ignore_patterns(*NOT_COPIED)

    def ignored(place: str, names: list[str]) -> set[str]:
        at_top = NOT_COPIED_AT_TOP if Path(place) == repository else set()
        return anywhere(place, names) | at_top

    shutil.copytree(repository, folder, ignore=ignored)
    return Project(folder, QUICK)
