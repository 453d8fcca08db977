"""The completed configuration that each run writes into its results folder."""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from xft.common.results_folder import CONFIG_FILE
from xft.config.section import Section, unrecorded
from xft.config.sections import WorkflowConfig
from xft.config.text import read_config
from xft.config.validation import validated


def recorded_config(results: Path) -> WorkflowConfig:
    """The configuration of the last run. Raises UserError if it is not one of this version."""
    file = results / CONFIG_FILE
    return validated(WorkflowConfig, read_config(file), str(file))


def values_to_change(config: WorkflowConfig) -> dict:
    """A configuration such as `find_runs` takes it.

    Values of section sft that follow from sections moe and moe_sft are left out: a variant that
    changes these changes sft too.
    """
    return config.model_dump() | {"sft": _own_of_sft(config)}


def chosen_values(config: WorkflowConfig) -> dict[str, object]:
    """The values that are not the documented defaults, by key.

    Those of section sft are left out if they follow from sections moe and moe_sft.
    """
    chosen, own_of_sft = {}, _own_of_sft(config)
    for name, value in config.model_dump(exclude_defaults=True).items():
        if isinstance(getattr(config, name), Section):
            keys = [key for key in value if name != "sft" or key in own_of_sft]
            chosen |= {f"{name}.{key}": value[key] for key in keys}
        else:
            chosen[name] = value
    return chosen


def shown_choices(config: WorkflowConfig) -> dict[str, object]:
    """The chosen values that a report shows. Its recipe holds them."""
    hidden = set(unrecorded(WorkflowConfig))
    for name, section in config:
        if isinstance(section, Section):
            hidden |= {f"{name}.{key}" for key in unrecorded(type(section))}
    return {key: value for key, value in chosen_values(config).items() if key not in hidden}


def changes(old: WorkflowConfig, new: WorkflowConfig) -> Iterator[str]:
    """The values that a report shows and that differ, each with its key, as `key: old -> new`."""
    for key in shown_choices(old) | shown_choices(new):
        before, now = map(attrgetter(key), (old, new))
        if before != now:
            yield f"{key}: {before} -> {now}"


def shown_values(config: WorkflowConfig) -> dict:
    """The values that a report shows, by section."""
    hidden = {name: unrecorded(type(value)) for name, value in config if isinstance(value, Section)}
    return config.model_dump(exclude=dict.fromkeys(unrecorded(WorkflowConfig), True) | hidden)


def _own_of_sft(config: WorkflowConfig) -> dict[str, object]:
    following = WorkflowConfig.model_validate(config.model_dump(exclude={"sft"})).sft
    return {key: value for key, value in config.sft if value != getattr(following, key)}
