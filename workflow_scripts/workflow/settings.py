"""The completed configuration beside its results, and what of it is not a default."""

from pathlib import Path

from workflow_scripts import configuration
from workflow_scripts.artifacts.files import write_whole
from workflow_scripts.workflow.places import CONFIG_FILE, CONFIG_HEAD


def write_config(config: dict, results: Path) -> None:
    """Keep a completed config in its results folder."""
    import yaml

    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_whole(results / CONFIG_FILE, CONFIG_HEAD + text)


def chosen_values(config: dict) -> dict[str, object]:
    """The values of a completed config that are not the documented defaults, by key.

    Those of section sft are left out where they are as in section training.
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
