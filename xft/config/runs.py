"""The runs of a configuration: one for each variant, each point of the sweep and each seed."""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import product
from math import prod
from pathlib import Path

from xft.common.errors import UserError, collecting_errors
from xft.common.user_code import codes_in
from xft.config.reading import Examined, complete, examine, read_config
from xft.config.section import Section
from xft.config.sections import SECTIONS, TRAININGS, WorkflowConfig

MOST_RUNS = 1000
VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
RUN_KEYS = ("variants", "control", "sweep", "choose", "seeds")
# Sections that `choose` cannot choose from: other rows or tokens have losses of their own, and the
# evaluation changes no model.
NOT_CHOSEN = ("base", "data", "evaluation")
# Keys that say where and how a run computes. They are the same for all runs.
FIXED = (
    *("store", "stores", "publish", "results_dir", "threads", "gpus", "report_to"),
    *("merge.keep", "merge.select", "evaluation.sandbox"),
    *map(".".join, product(TRAININGS, ("launch", "processes", "nodes", "save_minutes"))),
)
# Keys whose values have results of their own in any case. No path carries them.
LISTS = ("evaluation.models", "evaluation.datasets", "merge.lambdas")
# Texts that are written into a path as they are. Other values that are texts could look like them.
PLAIN_TEXT = re.compile(r"(?!(true|false|null)$)[A-Za-z][A-Za-z0-9_-]{,39}")


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its configuration, and how it differs from the file's own values.

    name: of its variant, with its values of the sweep; empty if it has the file's own values and
    sweeps none. changes: the keys with other values, each with the text that stands for its value
    in paths, the seed last. control: the name of the run that answers whether this one is better.
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
    """What is right and wrong about all runs of a configuration.

    whole: the configuration itself. runs: those that are right, none if `whole` is not known.
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
    if whole.control is not None and whole.control not in whole.variants:
        known = ", ".join(whole.variants)
        what_to_do = f"Name one of {known}" if known else "Leave it out, as there are no variants"
        control = json.dumps(whole.control)
        faults.append(f"{where}: control: there is no variant {control}. {what_to_do}")
    check_variant = partial(_check_variant, where, whole)
    check_swept = partial(_check_swept, f"{where}: sweep", leaves(whole))
    right = {
        "variants": _passing(whole.variants, check_variant, faults),
        "sweep": _passing(whole.sweep, check_swept, faults),
    }
    right_whole = whole.model_copy(update=right)
    try:
        _check_count(whole, where)
    except UserError as error:
        return ExaminedRuns(examined, [], [*faults, str(error)])
    plain = {key: value for key, value in examined.values.items() if key not in RUN_KEYS}
    runs = _examine_each(right_whole, plain, where, examined, faults)
    of_models: list[str] = []
    with collecting_errors(of_models):
        _check_models(whole, runs, where)
    if whole.choose:
        faults += [f"{where}: {fault}" for fault in _faults_of_choice(whole, runs)]
    faults += [fault for fault in of_models if not examined.is_about_wrong(fault)]
    return ExaminedRuns(examined, runs, faults)


def _passing(items: Mapping, check: Callable, faults: list[str]) -> dict:
    """The items that a check takes. The faults of the others are added."""
    passing = {}
    for name, value in items.items():
        with collecting_errors(faults):
            check(name, value)
            passing[name] = value
    return passing


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
        place = _described(where, variant, point)
        found = examine(WorkflowConfig, values)
        set_here = {*_keys_of(whole.variants.get(variant, {})), *point}
        for fault in found.faults:
            if not examined.is_about_wrong(fault, set_here):
                wrong.setdefault(fault, []).append((variant, point))
        if found.faults:
            continue
        content = found.valid.model_dump_json()
        if content in seen:
            faults.append(f"{place}: it is the same as {seen[content]}. Leave one of them out")
        seen.setdefault(content, place)
        changes = _changes(plain_values, found.valid)
        runs.append(_run(whole, variant, point, found.valid, changes))
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
    sets_keys = bool(_keys_of(whole.variants.get(variant, {})))
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
            names = {"control": of_control.name, "control_variant": of_control.variant}
            run = replace(run, **names)
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
    keys = [
        key
        for key, values in whole.sweep.items()
        if len({str(point[key]) for _, point in places}) < max(len(values), 2)
    ]
    if not is_of_variant and not keys:
        return [_described(where, *places[0])]
    shown = [
        _described(where, variant if is_of_variant else None, {key: point[key] for key in keys})
        for variant, point in places
    ]
    return list(dict.fromkeys(shown))


def _check_models(whole: WorkflowConfig, runs: list[Run], where: str) -> None:
    models = {model for run in runs for model in run.config.evaluation.models}
    if "soup" in models and len(whole.seeds) < 2:
        raise UserError(
            f"{where}: evaluation.models names soup, which is made from all seeds. List at least "
            "two seeds in `seeds`, or leave it out"
        )


def _faults_of_choice(whole: WorkflowConfig, runs: list[Run]) -> Iterator[str]:
    """Why no settings can be chosen."""
    if not all(run.config.data.choice_rows for run in runs):
        yield (
            f"choose = {whole.choose}: there are no rows to choose by. Set data.choice_rows, "
            "usually to as many as data.validation_rows"
        )
    if not whole.sweep and all(len(run.config.merge.lambdas) == 1 for run in runs):
        yield (
            f"choose = {whole.choose}: there is one setting, so nothing can be chosen. List values "
            "in `sweep` or merge.lambdas, or leave it out"
        )
    for key in whole.sweep:
        if key.partition(".")[0] in NOT_CHOSEN:
            yield (
                f"sweep: {key} cannot be chosen with choose = {whole.choose}: the losses of its "
                "values do not compare. Give its values in `variants`"
            )


def _check_count(whole: WorkflowConfig, where: str) -> None:
    points = prod(map(len, whole.sweep.values()))
    count = max(len(whole.variants), 1) * points * max(len(whole.seeds), 1)
    if count > MOST_RUNS:
        raise UserError(
            f"{where}: variants x sweep x seeds gives {count:,} runs. At most {MOST_RUNS:,} are "
            "allowed. Leave some out"
        )


def _check_variant(where: str, whole: WorkflowConfig, name: str, overrides: Mapping) -> None:
    place, faults = f"{where}: variants.{name}", []
    if not VARIANT_NAME.fullmatch(name):
        faults.append(
            f"{where}: variants: {json.dumps(name)} is not a name. Use letters, digits, and the "
            "marks . _ + - after the first one"
        )
    for key in _keys_of(overrides):
        with collecting_errors(faults):
            _check_key(place, key)
    if both := set(_keys_of(overrides)) & whole.sweep.keys():
        faults.append(f"{place}: {min(both)} is in sweep too. Leave it out of one of them")
    if faults:
        raise UserError("\n".join(faults))


def _check_key(where: str, name: str) -> None:
    if name in ("seed", *RUN_KEYS):
        raise UserError(f"{where}: {name} cannot vary here. List the seeds in `seeds`")
    if name in FIXED:
        raise UserError(
            f"{where}: {name} cannot vary: all runs have the same. Set it outside of variants "
            "and sweep"
        )
    if name in SECTIONS:
        raise UserError(f"{where}: {name} is a section. Name one of its keys, as {name}.KEY")


def _check_swept(where: str, known: Mapping[str, object], name: str, _) -> None:
    """Raise UserError if a key is unknown, with keys that can stand in its place."""
    _check_key(where, name)
    if name in known:
        return
    meant = _keys_meant(name, known)
    hint = ". docs/configuration.md lists all keys"
    if meant:
        hint = f": did you mean {' or '.join(meant)}?"
    raise UserError(f"{where}: {name} is not a known key{hint}")


def _keys_meant(name: str, known: Iterable[str]) -> list[str]:
    """The known keys whose last part is like that of a name; those of its section, if it has any.

    A last part that contains that of the name counts if none is spelled alike.
    """
    section, _, key = name.rpartition(".")
    by_end: dict[str, list[str]] = {}
    for full in known:
        by_end.setdefault(full.rpartition(".")[2], []).append(full)
    ends = difflib.get_close_matches(key, by_end, n=1, cutoff=0.7)
    if not ends:
        ends = [end for end in by_end if key in end]
    if not ends:
        return []
    meant = by_end[ends[0]]
    of_section = [full for full in meant if full.startswith(f"{section}.")]
    return of_section or meant


def _values_of_runs(whole: WorkflowConfig, plain: dict) -> Iterator[tuple[str | None, dict, dict]]:
    """Each run's variant, values of the sweep, and values of all keys that it sets."""
    points = [[(key, value) for value in values] for key, values in whole.sweep.items()]
    for name, overrides in (whole.variants or {None: {}}).items():
        for point in map(dict, product(*points)):
            values = overlaid(plain, overrides)
            for key, value in point.items():
                section, _, inner = key.partition(".")
                values = overlaid(values, {section: {inner: value} if inner else value})
            for seed in whole.seeds or [values.get("seed")]:
                yield name, point, values if seed is None else values | {"seed": seed}


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
    return reduce(overlaid, map(read_config, files)), ", ".join(map(str, files))


def overlaid(config: Mapping, overrides: Mapping) -> dict:
    """A configuration with other values for some keys. Sections are joined, key by key."""
    result = dict(config)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = overlaid(result[key], value) if both else value
    return result


def _keys_of(overrides: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key, value in overrides.items():
        is_group = isinstance(value, Mapping)
        names += _keys_of(value, f"{prefix}{key}.") if is_group else [f"{prefix}{key}"]
    return names


def leaves(config: WorkflowConfig) -> dict[str, object]:
    """The values of a configuration by key, such as moe.num_experts."""
    values = {}
    for name, value in config:
        if isinstance(value, Section):
            values |= {f"{name}.{key}": part for key, part in value}
        elif name not in RUN_KEYS:
            values[name] = value
    return values


def _changes(plain: dict[str, object], config: WorkflowConfig) -> dict[str, str]:
    changes = {
        key: _text(value)
        for key, value in leaves(config).items()
        if value != plain[key] and key not in LISTS
    }
    if "seed" in changes:
        changes["seed"] = changes.pop("seed")
    return changes


def _text(value: object) -> str:
    """A text that stands for a value in a path. Different values have different texts."""
    text = value if isinstance(value, str) else json.dumps(value)
    if not isinstance(value, str | list) or PLAIN_TEXT.fullmatch(text):
        return text
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    names = " ".join(code.shown.partition(":")[2] for code in codes_in(value))
    text = re.sub(r"[^A-Za-z0-9_]+", "-", names or text).strip("-")
    return f"{text[:40] if names else text[-20:]}.{digest}"
