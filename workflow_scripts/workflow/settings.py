"""Writes the completed configuration into the results folder, and finds its changed values."""

from pathlib import Path

from workflow_scripts.artifacts.files import write_whole
from workflow_scripts.config.section import Section
from workflow_scripts.config.sections import XftConfig
from workflow_scripts.workflow.experiment import Experiment
from workflow_scripts.workflow.places import CONFIG_FILE, CONFIG_HEAD


def write_config(config: XftConfig, results: Path) -> None:
    """Keep the configuration in its results folder."""
    import yaml

    text = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    write_whole(results / CONFIG_FILE, CONFIG_HEAD + text)


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


def chosen_values(config: XftConfig) -> dict[str, object]:
    """The values that are not the documented defaults, by key.

    Those of section sft are left out if they are as in section moe_sft.
    """
    chosen = {}
    for name, value in config:
        if not isinstance(value, Section):
            chosen |= _not_default(config, name, name)
            continue
        for key in type(value).model_fields:
            inherited = name == "sft" and getattr(config.moe_sft, key) == getattr(value, key)
            if not inherited:
                chosen |= _not_default(value, key, f"{name}.{key}")
    return chosen


def _not_default(section: Section, key: str, name: str) -> dict[str, object]:
    field, value = type(section).model_fields[key], getattr(section, key)
    return {name: value} if field.is_required() or value != field.get_default() else {}
