"""Checks values against the configuration's classes. Each fault is one line of the message."""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

from xft.common.errors import UserError, did_you_mean
from xft.config.removed import removal
from xft.config.section import ONE, SEVERAL, NoEffect, Section, keys
from xft.config.sections import WorkflowConfig, lambda_token

# Added to the message if `base` is missing.
OVER_THE_DEMONSTRATION = (
    ". To change the demonstration, merge your file on top of it: --configfile config.yaml "
    "mine.yaml (of xft: --config)"
)
SectionType = TypeVar("SectionType", bound=Section)


def complete(config: Mapping, where: str = "config") -> WorkflowConfig:
    """The checked configuration with all defaults.

    Raises UserError with every fault: the key, its value, and what is allowed.
    """
    return validated(WorkflowConfig, dict(config), where)


def validated(section: type[SectionType], values: dict, where: str) -> SectionType:
    """The values as an object of a class. Raises UserError with every fault."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        faults = [_explain(section, fault) for fault in error.errors(include_url=False)]
        # sft takes the values of moe_sft, so that both have the same faults: they are told once.
        shown = [f for f in faults if not f.startswith("sft") or f"moe_{f}" not in faults]
        raise UserError("\n".join(f"{where}: {fault}" for fault in shown)) from None


def sections() -> Iterator[tuple[str, type[Section]]]:
    """The sections of the configuration, by name."""
    for name, field in WorkflowConfig.model_fields.items():
        if is_section(field.annotation):
            yield name, field.annotation


def valid_sections(config: Mapping) -> dict[str, Section]:
    """The sections of a configuration by name, each with those of its keys that fit together."""
    valid = {}
    for name, section in sections():
        given, kept = config.get(name), {}
        parts = [{key: given[key]} for key in given] if isinstance(given, Mapping) else []
        for part in ({}, *parts, *parts):  # twice, since a key may need a later one
            with suppress(ValidationError):
                valid[name] = section.model_validate(kept | part)
                kept |= part
    return valid


def is_section(annotation: Any) -> bool:
    """Whether a key's annotation is that of a section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _explain(section: type[Section], fault: dict) -> str:
    place, kind = fault["loc"], fault["type"]
    name = _name(place)
    if kind == "missing":
        return f"{name} is missing{OVER_THE_DEMONSTRATION if name == 'base' else ''}"
    if end := removal(name, fault["input"]):
        return f"{name if kind == 'extra_forbidden' else _set(fault).rstrip(': ')} {end}"
    if kind == "extra_forbidden":
        return f"{name} is not a known key{_hint(section, place)}"
    if kind == "value_error":
        message = str(error := fault["ctx"]["error"])
        if isinstance(error, NoEffect) and section is WorkflowConfig:
            message += ". If only some runs have it, set all of this in variants"
        is_whole = isinstance(fault["input"], dict | Section)
        return f"{name}: {message}".removeprefix(": ") if is_whole else f"{_set(fault)}{message}"
    if kind == "string_pattern_mismatch":
        return f"{_set(fault)}must be a commit hash of 40 hexadecimal digits: a branch can change"
    if kind == "list_type":
        return f"{_set(fault)}should be a list, such as [{fault['input']}]"
    if kind == "model_type":
        first = keys(section.model_fields[name].annotation)[0]
        return f"{_set(fault)}should be a section of keys, such as {{{first}: ...}}"
    return _set(fault) + fault["msg"].removeprefix("Input ")


def _set(fault: dict) -> str:
    name = _name(fault["loc"])
    value = json.dumps(fault["input"], default=str, ensure_ascii=False)
    return f"{name} = {value}: " if name else ""


def _owner(section: type[Section], place: tuple) -> type[Section]:
    """The section with the key at a place: ("moe", "router") is in MoeConfig."""
    return section.model_fields[place[0]].annotation if len(place) > 1 else section


def _name(place: tuple) -> str:
    """The name of a place: ("moe", "upcycled_layers", 0) is moe.upcycled_layers[0]."""
    named = [part for part in place if part not in (ONE, SEVERAL)]
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in named]
    return "".join(parts).removeprefix(".")


def _hint(section: type[Section], place: tuple) -> str:
    """The key that was probably meant in place of an unknown one, or the known keys."""
    known, places = keys(_owner(section, place)), _places()
    if near := did_you_mean(place[-1], known):
        return near
    name = place[-1].rpartition(".")[2]
    if near := difflib.get_close_matches(name, places, n=1, cutoff=0.75):
        return f": did you mean {near[0]} {' or '.join(places[near[0]])}?"
    return f": known keys are {', '.join(sorted(known))}"


@cache
def _places() -> dict[str, list[str]]:
    """Every key of the configuration, and where it stands."""
    places = {key: ["at the top level"] for key in keys(WorkflowConfig)}
    for name, section in sections():
        for key in keys(section):
            places.setdefault(key, []).append(f"in {name}")
    return places


def check_lambda(text: str, where: str) -> float:
    """A lambda as a number. Raises UserError if it is not valid."""
    try:
        return float(lambda_token(text))
    except ValueError as error:
        raise UserError(f"{where} = {text}: {error}") from None
