"""Writes the completed configuration into the results folder, and finds its changed values."""

from pathlib import Path

from workflow_scripts import configuration
from workflow_scripts.artifacts.files import write_whole
from workflow_scripts.workflow.places import CONFIG_FILE, CONFIG_HEAD


def write_config(config: dict, results: Path) -> None:
    """Write a completed config into its results folder."""
    import yaml

    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_whole(results / CONFIG_FILE, CONFIG_HEAD + text)


def chosen_values(config: dict) -> dict[str, object]:
    """The values of a completed config that are not the documented defaults, by key.

    Values of section sft are left out if they equal those of section training.
    """
    chosen = {}
    for name, subschema in configuration.properties().items():
        if subschema["type"] != "object":
            if config[name] != subschema.get("default"):
                chosen[name] = config[name]
            continue
        for key, known in configuration.properties(name).items():
            usual = config["training"].get(key) if name == "sft" else known.get("default")
            if not _is_same(config[name][key], usual):
                chosen[f"{name}.{key}"] = config[name][key]
    return chosen


def _is_same(value: object, usual: object) -> bool:
    """Whether a value is the default. The lambdas of a completed config are text."""
    if isinstance(value, list) and isinstance(usual, list):
        return [str(item) for item in value] == [str(item) for item in usual]
    return value == usual
