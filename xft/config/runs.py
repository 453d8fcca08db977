"""The runs of a configuration: one for each variant, each point of the sweep and each seed."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from xft.common.errors import UserError
from xft.common.user_code import codes_in
from xft.config.reading import Examined, complete, examine, read_config
from xft.config.run_checks import (
    RUN_KEYS,
    faults_of_choice,
    faults_of_control,
    faults_of_count,
    faults_of_models,
    keys_of,
    without_wrong_keys,
)
from xft.config.section import Section
from xft.config.sections import WorkflowConfig

# Keys whose values have results of their own in any case. No path carries them.
LISTS = ("evaluation.models", "evaluation.datasets", "merge.lambdas")
# Texts that are written into a path as they are. Other values that are texts could look like them.
PLAIN_TEXT = re.compile(r"(?!(true|false|null)$)[A-Za-z][A-Za-z0-9_-]{,39}")


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its configuration, and how it differs from the file's own values.

    name: of its variant, with its values of the sweep; empty if it has the file's own values and
    sweeps none.
    changes: the keys with other values, each with the text that stands for its value in paths, the
    seed last.
    control: the name of the run that answers whether this one is better.
    variant: the name of its variant alone; empty if it has none, or if the variant changes nothing.
    control_variant: the same of its control.
    own_name: the name of a variant that changes nothing.
    swept: the values of the swept keys.
    """

    config: WorkflowConfig
    name: str = ""
    changes: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    variant: str = ""
    control_variant: str = ""
    own_name: str = ""
    swept: Mapping[str, object] = field(default_factory=dict)

    def folders(self, keys: Collection[str]) -> str:
        """The folders, in the results folder, of what depends on these keys.

        There is a folder for each of the keys in which this run differs from the configuration's
        own values, as moe.num_experts_per_tok~2/seed~7/.
        """
        changes = self.changes.items()
        return "".join(f"{key}~{text}/" for key, text in changes if key in keys)


@dataclass(frozen=True)
class ExaminedRuns:
    """The valid runs of a configuration, and the faults of the others.

    whole: the configuration itself.
    runs: those that are right, none if `whole` is not known.
    faults: one line each, with its place.
    """

    whole: Examined[WorkflowConfig]
    runs: list[Run]
    faults: list[str]


def find_runs(config: Mapping, where: str = "config") -> list[Run]:
    """All runs of a configuration as it was read: variants x sweep x seeds.

    Raises UserError with every fault: two runs that are the same, a name or a key that is not
    allowed, a run's own values that do not fit together, too many runs.
    """
    found = examine_runs(config, where)
    if found.faults:
        raise UserError("\n".join(found.faults))
    return found.runs


def examine_runs(config: Mapping, where: str = "config") -> ExaminedRuns:
    """The runs of a configuration, and every fault. What is wrong is left out of the runs."""
    examined = examine(WorkflowConfig, dict(config))
    faults = [f"{where}: {fault}" for fault in examined.faults]
    whole = examined.valid
    if whole is None:
        return ExaminedRuns(examined, [], faults)
    faults += faults_of_control(whole, where)
    right, faults_of_keys = without_wrong_keys(whole, leaves(whole), where)
    faults += faults_of_keys
    too_many = faults_of_count(whole, where)
    if too_many:
        return ExaminedRuns(examined, [], faults + too_many)
    plain = {key: value for key, value in examined.values.items() if key not in RUN_KEYS}
    runs = _examine_each(right, plain, where, examined, faults)
    configs = [run.config for run in runs]
    faults += faults_of_choice(whole, configs, where)
    for fault in faults_of_models(whole, configs, where):
        if not examined.is_about_wrong(fault):
            faults.append(fault)
    return ExaminedRuns(examined, runs, faults)


def _examine_each(
    whole: WorkflowConfig, plain: dict, where: str, examined: Examined, faults: list[str]
) -> list[Run]:
    """The runs that are right. The faults of the others are added, each with its places."""
    plain_values = leaves(complete(plain))
    runs: list[Run] = []
    origins: list[tuple[str | None, dict]] = []  # of each run, its variant and values of the sweep
    seen: dict[str, str] = {}  # the place of each configuration, by its content
    wrong: dict[str, list[tuple[str | None, dict]]] = {}  # the origins of each fault
    for variant, point, values in _values_of_runs(whole, plain):
        examined_run = examine(WorkflowConfig, values)
        set_here = {*keys_of(whole.variants.get(variant, {})), *point}
        for fault in examined_run.faults:
            if not examined.is_about_wrong(fault, set_here):
                wrong.setdefault(fault, []).append((variant, point))
        if examined_run.faults:
            continue
        config = examined_run.valid
        place = _described(where, variant, point)
        content = config.model_dump_json()
        if content in seen:
            faults.append(f"{place}: it is the same as {seen[content]}. Leave one of them out")
        else:
            seen[content] = place
        changes = _changes(plain_values, config)
        runs.append(_run(whole, variant, point, config, changes))
        origins.append((variant, point))
    for fault, places in wrong.items():
        faults += [f"{place}: {fault}" for place in _shortened(where, whole, places)]
    return _with_controls(whole, runs, origins)


def _run(
    whole: WorkflowConfig,
    variant: str | None,
    point: dict,
    config: WorkflowConfig,
    changes: Mapping[str, str],
) -> Run:
    """A run without its control.

    variant, point: the name of its variant, and its values of the sweep.
    config: its own.
    changes: as in `Run`.
    """
    is_plain = not point and changes.keys() <= {"seed"}
    sets_keys = bool(keys_of(whole.variants.get(variant, {})))
    is_changed = sets_keys and not is_plain
    values = leaves(config)
    return Run(
        config,
        name="" if is_plain else _name(variant, point, config),
        changes=changes,
        variant=variant if is_changed else "",
        own_name="" if is_changed else variant or "",
        swept={key: values[key] for key in point},
    )


def _with_controls(
    whole: WorkflowConfig, runs: Sequence[Run], origins: Sequence[tuple[str | None, dict]]
) -> list[Run]:
    """The runs with their controls.

    A variant's control is the control variant with the same values of the sweep. That of the
    control variant's own runs, and of a sweep without variants, is the first value.

    origins: the variant and the values of the sweep of each run.
    """
    control = whole.control or _variant_without_changes(runs, origins)
    by_origin: dict[tuple[str | None, str], Run] = {}
    for run, (variant, point) in zip(runs, origins, strict=True):
        by_origin.setdefault((variant, json.dumps(point)), run)
    controlled = []
    for run, (variant, point) in zip(runs, origins, strict=True):
        same_point = origins[0][1] if variant == control else point
        of_control = by_origin.get((control, json.dumps(same_point)))
        if of_control is not None:
            run = replace(run, control=of_control.name, control_variant=of_control.variant)
        controlled.append(run)
    return controlled


def _variant_without_changes(
    runs: Sequence[Run], origins: Sequence[tuple[str | None, dict]]
) -> str | None:
    """The first variant that changes nothing; the first of all if each changes something."""
    for run, (variant, _) in zip(runs, origins, strict=True):
        if not run.variant:
            return variant
    return origins[0][0] if origins else None


def _shortened(where: str, whole: WorkflowConfig, places: list[tuple]) -> list[str]:
    """The variants and values of the sweep on which a fault depends. places: where it is."""
    is_of_variant = len({variant for variant, _ in places}) < max(len(whole.variants), 2)
    keys = []
    for key, values in whole.sweep.items():
        values_here = {str(point[key]) for _, point in places}
        if len(values_here) < max(len(values), 2):
            keys.append(key)
    if not is_of_variant and not keys:
        return [_described(where, *places[0])]
    shown = []
    for variant, point in places:
        part_of_point = {key: point[key] for key in keys}
        place = _described(where, variant if is_of_variant else None, part_of_point)
        if place not in shown:
            shown.append(place)
    return shown


def _values_of_runs(whole: WorkflowConfig, plain: dict) -> Iterator[tuple[str | None, dict, dict]]:
    """Each run's variant, values of the sweep, and values of all keys that it sets."""
    for name, overrides in (whole.variants or {None: {}}).items():
        for swept in product(*whole.sweep.values()):
            point = dict(zip(whole.sweep, swept, strict=True))
            values = overlaid(plain, overrides)
            for key, value in point.items():
                section, _, inner = key.partition(".")
                values = overlaid(values, {section: {inner: value} if inner else value})
            if not whole.seeds:
                yield name, point, values
            for seed in whole.seeds:
                yield name, point, values | {"seed": seed}


def _name(variant: str | None, point: dict, config: WorkflowConfig) -> str:
    """Such as `vanilla, num_experts=4`. A key that several sections have is named with its own."""
    values = leaves(config)
    ends = [key.rpartition(".")[2] for key in values]
    parts = [variant] if variant else []
    for key in point:
        end = key.rpartition(".")[2]
        name = key if ends.count(end) > 1 else end
        parts.append(f"{name}={_text(values[key])}")
    return ", ".join(parts)


def _described(where: str, variant: str | None, point: dict) -> str:
    parts = [f"variants.{variant}"] if variant else []
    parts += [f"sweep with {key} = {value}" for key, value in point.items()]
    return ": ".join([where, *parts])


def read_overlaid(files: Sequence[Path]) -> tuple[dict, str]:
    """The configuration in files, each merged on top of those before, and its place for messages.

    Raises UserError as `read_config` does.
    """
    config = {}
    for file in files:
        config = overlaid(config, read_config(file))
    return config, ", ".join(str(file) for file in files)


def overlaid(config: Mapping, overrides: Mapping) -> dict:
    """A configuration with other values for some keys. Sections are joined, key by key."""
    result = dict(config)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = overlaid(result[key], value) if both else value
    return result


def leaves(config: WorkflowConfig) -> dict[str, object]:
    """The values of a configuration by key, such as moe.num_experts."""
    values = {}
    for name, value in config:
        if isinstance(value, Section):
            for key, part in value:
                values[f"{name}.{key}"] = part
        elif name not in RUN_KEYS:
            values[name] = value
    return values


def _changes(plain: dict[str, object], config: WorkflowConfig) -> dict[str, str]:
    """The keys with other values than the file's own, as in `Run`. plain: the file's own values."""
    changes = {}
    for key, value in leaves(config).items():
        if value != plain[key] and key not in LISTS:
            changes[key] = _text(value)
    if "seed" in changes:  # the last one
        changes["seed"] = changes.pop("seed")
    return changes


def _text(value: object) -> str:
    """A text that stands for a value in a path. Different values have different texts."""
    text = value if isinstance(value, str) else json.dumps(value)
    if not isinstance(value, str | list) or PLAIN_TEXT.fullmatch(text):
        return text
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    names = " ".join(code.label.partition(":")[2] for code in codes_in(value))
    if names:
        return f"{_plain(names)[:40]}.{digest}"
    return f"{_plain(text)[-20:]}.{digest}"


def _plain(text: str) -> str:
    """A text with hyphens in place of all but letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")
