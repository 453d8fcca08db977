"""Writes into the results folder the configuration, and the arguments of step summary."""

import subprocess
from contextlib import suppress
from pathlib import Path

from xft.artifacts.code import ROOT
from xft.artifacts.files import write_whole
from xft.config.recorded import CONFIG_FILE, CONFIG_HEAD
from xft.config.sections import XftConfig
from xft.dag.experiment import Experiment


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


def summary_arguments_path(results: Path) -> Path:
    """The file with the arguments of step summary."""
    return results / "logs" / "summary.args"


def write_summary_arguments(experiment: Experiment) -> None:
    """Write the arguments of step summary, one in each line: its inputs, and how to name them."""
    shown, options = experiment.shown, experiment.summary_options
    arguments = ["--own-seed", options["own_seed"]]
    if options["chosen_by"]:
        arguments += ["--chosen-by", options["chosen_by"]]
    lists = {
        "--evals": [part.place for part in shown["eval"]],
        "--losses": [part.place for part in shown["validation_loss"]],
        "--lm-eval": [part.place for part in shown["lm_eval"]],
        "--diversity": [part.place for part in shown["diversity"]],
        "--uncleaned": [part.place for part in experiment.uncleaned],
        "--variant": options["variant"],
    }
    for flag, values in lists.items():
        arguments += [flag, *values] if values else []
    text = "".join(f"{argument}\n" for argument in arguments)
    write_whole(summary_arguments_path(experiment.results), text)
