"""Writes into the results folder the configuration, and the table of runs."""

import subprocess
from contextlib import suppress
from pathlib import Path

from xft.artifacts.code import ROOT
from xft.artifacts.files import write_whole
from xft.config.recorded import CONFIG_FILE, CONFIG_HEAD
from xft.config.sections import XftConfig
from xft.dag.experiment import Experiment
from xft.dag.places import RUNS_TABLE


def write_config(config: XftConfig, results: Path) -> None:
    """Keep the configuration in its results folder."""
    import yaml

    text = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    write_whole(results / CONFIG_FILE, CONFIG_HEAD + _commit() + text)


def _commit() -> str:
    """A comment that names the commit of this clone; empty if there is no clone or no git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):
        if (ROOT / ".git").exists():
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            return f"# The workflow's commit: {done.stdout.strip()}\n"
    return ""


def write_table(experiment: Experiment) -> None:
    """Write the table of runs, which step summary reads."""
    write_whole(experiment.results / RUNS_TABLE, experiment.table)
