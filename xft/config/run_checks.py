"""Checks of variants, sweep, seeds and choice: what all runs of a configuration must fulfil.

Each fault is one line, which begins with its place.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod

from xft.common.errors import UserError, collecting_errors
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


def faults_of_control(whole: WorkflowConfig, where: str) -> list[str]:
    """The fault of a control that is no variant."""
    if whole.control is None or whole.control in whole.variants:
        return []
    known = ", ".join(whole.variants)
    what_to_do = f"Name one of {known}" if known else "Leave it out, as there are no variants"
    control = json.dumps(whole.control)
    return [f"{where}: control: there is no variant {control}. {what_to_do}"]


def without_wrong_keys(
    whole: WorkflowConfig, known: Mapping[str, object], where: str
) -> tuple[WorkflowConfig, list[str]]:
    """A configuration without variants and swept keys that are wrong, and the faults of these.

    known: the values of all keys.
    """
    faults: list[str] = []
    variants = {}
    for name, overrides in whole.variants.items():
        faults_of_variant = _faults_of_variant(whole, name, overrides, where)
        faults += faults_of_variant
        if not faults_of_variant:
            variants[name] = overrides
    sweep = {}
    for key, values in whole.sweep.items():
        with collecting_errors(faults):
            _check_swept(key, known, f"{where}: sweep")
            sweep[key] = values
    return whole.model_copy(update={"variants": variants, "sweep": sweep}), faults


def faults_of_count(whole: WorkflowConfig, where: str) -> list[str]:
    """The fault of too many runs."""
    points = prod(len(values) for values in whole.sweep.values())
    count = max(len(whole.variants), 1) * points * max(len(whole.seeds), 1)
    if count <= MOST_RUNS:
        return []
    return [
        f"{where}: variants x sweep x seeds gives {count:,} runs. At most {MOST_RUNS:,} are "
        "allowed. Leave some out"
    ]


def faults_of_models(
    whole: WorkflowConfig, configs: Sequence[WorkflowConfig], where: str
) -> list[str]:
    """The fault of a soup of one seed. configs: of the runs."""
    names_soup = any("soup" in config.evaluation.models for config in configs)
    if not names_soup or len(whole.seeds) >= 2:
        return []
    return [
        f"{where}: evaluation.models names soup, which is made from all seeds. List at least "
        "two seeds in `seeds`, or leave it out"
    ]


def faults_of_choice(
    whole: WorkflowConfig, configs: Sequence[WorkflowConfig], where: str
) -> list[str]:
    """The reasons why `choose` cannot choose settings. configs: of the runs."""
    if not whole.choose:
        return []
    faults = []
    if not all(config.data.choice_rows for config in configs):
        faults.append(
            f"{where}: choose = {whole.choose}: there are no rows to choose by. Set "
            "data.choice_rows, usually to as many as data.validation_rows"
        )
    if not whole.sweep and all(len(config.merge.lambdas) == 1 for config in configs):
        faults.append(
            f"{where}: choose = {whole.choose}: there is one setting, so nothing can be chosen. "
            "List values in `sweep` or merge.lambdas, or leave it out"
        )
    for key in whole.sweep:
        if key.partition(".")[0] in NOT_CHOSEN:
            faults.append(
                f"{where}: sweep: {key} cannot be chosen with choose = {whole.choose}: the losses "
                "of its values do not compare. Give its values in `variants`"
            )
    return faults


def _faults_of_variant(
    whole: WorkflowConfig, name: str, overrides: Mapping, where: str
) -> list[str]:
    place = f"{where}: variants.{name}"
    faults: list[str] = []
    if not VARIANT_NAME.fullmatch(name):
        faults.append(
            f"{where}: variants: {json.dumps(name)} is not a name. Use letters, digits, and the "
            "marks . _ + - after the first one"
        )
    for key in keys_of(overrides):
        with collecting_errors(faults):
            _check_key(key, place)
    also_swept = set(keys_of(overrides)) & whole.sweep.keys()
    if also_swept:
        faults.append(f"{place}: {min(also_swept)} is in sweep too. Leave it out of one of them")
    return faults


def _check_key(name: str, where: str) -> None:
    """Raise UserError if a key cannot vary in variants and sweep."""
    if name in ("seed", *RUN_KEYS):
        raise UserError(f"{where}: {name} cannot vary here. List the seeds in `seeds`")
    if name in FIXED:
        raise UserError(
            f"{where}: {name} cannot vary: all runs have the same. Set it outside of variants "
            "and sweep"
        )
    if name in SECTIONS:
        raise UserError(f"{where}: {name} is a section. Name one of its keys, as {name}.KEY")


def _check_swept(name: str, known: Mapping[str, object], where: str) -> None:
    """Raise UserError if a key cannot vary or is unknown, with keys that can stand in its place."""
    _check_key(name, where)
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


def keys_of(overrides: Mapping, prefix: str = "") -> list[str]:
    """The keys that a variant sets, such as moe.num_experts."""
    names = []
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            names += keys_of(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names
