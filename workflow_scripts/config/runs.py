"""The runs of a configuration: one for each variant, each point of the sweep and each seed."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from workflow_scripts.common.errors import UserError
from workflow_scripts.config.section import Section
from workflow_scripts.config.sections import XftConfig
from workflow_scripts.config.validation import complete, sections

MOST_RUNS = 1000
VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
RUN_KEYS = ("variants", "sweep", "seeds")
# Keys that say where and how a run computes. They are the same for all runs.
FIXED = (
    *("results_dir", "threads", "gpus", "report_to", "merge.keep", "merge.select"),
    "evaluation.sandbox",
    *(
        f"{section}.{key}"
        for section in ("moe_sft", "sft", "mixing", "heal")
        for key in ("launch", "processes", "nodes", "save_minutes")
    ),
)
# Keys whose values have results of their own in any case. No path carries them.
LISTS = ("evaluation.models", "evaluation.datasets", "merge.lambdas")
# Texts that are written into a path as they are. Other values that are texts could look like them.
PLAIN_TEXT = re.compile(r"(?!(true|false|null)$)[A-Za-z][A-Za-z0-9_-]{,39}")


@dataclass(frozen=True)
class Run:
    """One run: its configuration, and how it differs from the file's own values.

    variant: the name of its variant, if there are variants. changes: the keys with other values,
    each with the text that stands for its value in paths, the seed last.
    """

    config: XftConfig
    variant: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)


def find_runs(config: Mapping, where: str = "config") -> list[Run]:
    """All runs of a configuration as it was read: variants x sweep x seeds.

    Raises UserError if two variants are the same, if a name or a key is not allowed, if a
    run's own values do not fit together, or if there are too many runs.
    """
    whole = complete(config, where)
    own = {key: value for key, value in config.items() if key not in RUN_KEYS}
    _check(whole, own, where)
    values = leaves(complete(own, where))
    return [Run(made, name, _changes(values, made)) for name, made in _completed(whole, own, where)]


def _check(whole: XftConfig, own: dict, where: str) -> None:
    points = 1
    for values in whole.sweep.values():
        points *= len(values)
    count = max(len(whole.variants), 1) * points * max(len(whole.seeds), 1)
    if count > MOST_RUNS:
        raise UserError(
            f"{where}: variants x sweep x seeds gives {count:,} runs. At most {MOST_RUNS:,} are "
            "allowed. Leave some out"
        )
    seen: dict[str, XftConfig] = {}
    for name, overrides in whole.variants.items():
        place = f"{where}: variants.{name}"
        if not VARIANT_NAME.fullmatch(name):
            raise UserError(
                f"{where}: variants: {json.dumps(name)} is not a name. Use letters, digits, and "
                "the marks . _ + - after the first one"
            )
        _check_keys(place, _keys_of(overrides))
        made = complete(overlaid(own, overrides), place)
        for other, config in seen.items():
            if config == made:
                raise UserError(
                    f"{place}: it is the same as variant {other}. Leave one of them out"
                )
        if both := set(_keys_of(overrides)) & whole.sweep.keys():
            raise UserError(f"{place}: {min(both)} is in sweep too. Leave it out of one of them")
        seen[name] = made
    _check_sweep(whole, own, where)


def _check_sweep(whole: XftConfig, own: dict, where: str) -> None:
    for key, values in whole.sweep.items():
        place = f"{where}: sweep"
        _check_keys(place, [key])
        if key in dict(sections()):
            raise UserError(f"{place}: {key} is a section. Name one of its keys, as {key}.KEY")
        if not values:
            raise UserError(f"{place}.{key}: must not be empty")
        found = [leaves(complete(overlaid(own, _nested(key, v)), place))[key] for v in values]
        for value in found:
            if found.count(value) > 1:
                raise UserError(f"{place}.{key}: names {json.dumps(value)} more than once")


def _check_keys(where: str, names: list[str]) -> None:
    for name in names:
        if name in ("seed", *RUN_KEYS):
            raise UserError(f"{where}: {name} cannot vary here. List the seeds in `seeds`")
        if name in FIXED:
            raise UserError(
                f"{where}: {name} cannot vary: all runs have the same. Set it outside of variants "
                "and sweep"
            )


def _completed(whole: XftConfig, own: dict, where: str) -> Iterator[tuple[str | None, XftConfig]]:
    """Each run's variant and configuration."""
    variants = whole.variants or {None: {}}
    points = [[(key, value) for value in values] for key, values in whole.sweep.items()]
    seeds = whole.seeds or [None]
    for name, overrides in variants.items():
        for point in product(*points):
            for seed in seeds:
                values = overlaid(own, overrides)
                for key, value in point:
                    values = overlaid(values, _nested(key, value))
                if seed is not None:
                    values |= {"seed": seed}
                yield name, complete(values, _described(where, name, dict(point)))


def _described(where: str, variant: str | None, point: dict) -> str:
    parts = [f"variants.{variant}"] if variant else []
    parts += [f"sweep with {key} = {value}" for key, value in point.items()]
    return ": ".join([where, *parts])


def overlaid(config: Mapping, overrides: Mapping) -> dict:
    """A configuration with other values for some keys. Sections are joined, key by key."""
    result = dict(config)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = overlaid(result[key], value) if both else value
    return result


def _nested(key: str, value: object) -> dict:
    """The overrides that set one key, such as moe.num_experts."""
    section, _, name = key.partition(".")
    return {section: {name: value}} if name else {section: value}


def _keys_of(overrides: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key, value in overrides.items():
        is_group = isinstance(value, Mapping)
        names += _keys_of(value, f"{prefix}{key}.") if is_group else [f"{prefix}{key}"]
    return names


def leaves(config: XftConfig) -> dict[str, object]:
    """The values of a configuration by key, such as moe.num_experts."""
    found = {}
    for name, value in config:
        if isinstance(value, Section):
            found |= {f"{name}.{key}": part for key, part in value}
        elif name not in RUN_KEYS:
            found[name] = value
    return found


def _changes(own: dict[str, object], config: XftConfig) -> dict[str, str]:
    changes = {
        key: _text(value)
        for key, value in leaves(config).items()
        if value != own[key] and key not in LISTS
    }
    if "seed" in changes:
        changes["seed"] = changes.pop("seed")
    return changes


def _text(value: object) -> str:
    """A text that stands for a value in a path. Different values have different texts."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str) and PLAIN_TEXT.fullmatch(value):
        return value
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_]+", "-", value).strip("-")[-20:] if isinstance(value, str) else ""
    return f"{name}.{digest}" if name else f".{digest}"
