"""From files to a checked configuration, and what a results folder records of it.

Each fault is one line of the message, with its file and line or its key. Snakemake reads config
files itself too, but of two equal keys it silently keeps the last.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from xft.common.errors import UserError, did_you_mean
from xft.common.results_folder import CONFIG_FILE
from xft.config.section import ONE, SEVERAL, NoEffect, Section, keys, unrecorded
from xft.config.sections import SECTIONS, WorkflowConfig, lambda_token

# Added to the message if `base` is missing.
OVER_THE_DEMONSTRATION = (
    ". To change the demonstration, merge your file on top of it: --configfile config.yaml "
    "mine.yaml (of xft: --config)"
)
HIDDEN = re.compile(r'://[^\s"\]]*[@?#][^\s"\]]*')  # of a URL: it may hold a password or a key
# Keys that no report shows, as pydantic excludes them.
UNRECORDED = {name: unrecorded(section) for name, section in SECTIONS.items()}
UNRECORDED |= dict.fromkeys(unrecorded(WorkflowConfig), True)
STAND_IN = "(missing)"  # for a text that is missing
SectionType = TypeVar("SectionType", bound=Section)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Let faults begin with the file of the configuration in place of the word config."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"^config(?=: )", lambda _: where, str(error), flags=re.MULTILINE)
        raise UserError(text) from None


def read_config(path: Path) -> dict:
    """The configuration in a YAML or JSON file.

    Raises UserError, with file, line and column, if it is not valid or holds a key twice.
    """
    import yaml

    try:
        config = _loader(path)(path.read_text(encoding="utf-8")).get_single_data()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(
            f"{_place(path, mark)}, is not valid YAML: {error.problem or error.context}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no configuration: it must be a mapping of keys")
    return config


def _loader(path: Path) -> type:
    """PyYAML's safe loader, which raises UserError if a mapping has two equal keys.

    It says the place of each value that cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_object(self, node, deep=False):
            fault = "the anchor holds itself"
            try:
                if node not in self.recursive_objects:
                    return super().construct_object(node, deep=True)
            except (ValueError, LookupError, AttributeError) as error:  # of PyYAML's constructors
                fault = f"the {node.tag.rpartition(':')[2]} cannot be read: {error}"
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark)

        def construct_mapping(self, node, deep=False):
            marks = {}
            for key, _ in node.value:
                first = marks.setdefault((key.tag, str(key.value)), key.start_mark)
                if first is not key.start_mark:
                    raise UserError(
                        f"{_place(path, key.start_mark)}: the key {key.value} is set twice, "
                        f"first in line {first.line + 1}. Leave one of them out"
                    )
            return super().construct_mapping(node, deep)

    return Loader


def _place(path: Path, mark) -> str:
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}"


def as_yaml(values: dict) -> str:
    """A configuration, or some of it, as YAML."""
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def complete(config: Mapping, where: str = "config") -> WorkflowConfig:
    """The checked configuration with all defaults.

    Raises UserError with every fault: the key, its value, and what is allowed.
    """
    return validated(WorkflowConfig, dict(config), where)


def validated(section: type[SectionType], values: dict, where: str) -> SectionType:
    """The values as an object of a class. Raises UserError with every fault."""
    found = examine(section, values)
    if found.faults:
        raise UserError("\n".join(f"{where}: {fault}" for fault in found.faults))
    return found.valid


@dataclass(frozen=True)
class Examined(Generic[SectionType]):
    """The valid values of a class, and the faults of the others.

    values: without the wrong ones; those that are missing have a stand-in.
    valid: these as an object; None if it is not known which value is wrong.
    faults: one line each, with the key.
    wrong: the keys whose value is unknown because it is wrong or missing, such as moe.rank.
    """

    values: dict
    valid: SectionType | None
    faults: list[str]
    wrong: set[str]

    @property
    def lacking(self) -> set[str]:
        """The sections that have a stand-in for a value that is missing."""
        lacking = set()
        for name in SECTIONS:
            section = self.values.get(name) or {}
            if STAND_IN in section.values():
                lacking.add(name)
        return lacking

    def is_about_wrong(self, fault: str, known: Collection[str] = ()) -> bool:
        """Whether a fault names a key whose value is unknown: it may only follow from this.

        known: keys that have another value now.
        """
        return any(_is_named(key, fault) for key in self.wrong.difference(known))


def examine(section: type[SectionType], values: dict) -> Examined[SectionType]:
    """Find every fault of some values.

    pydantic checks what fits together only where each value is right by itself, and ends at the
    first fault. So the values of a fault are taken out, and the others are checked again, until
    they are right. What names a value that was taken out is then no fault of the others.
    """
    found = Examined(values, None, [], set())
    while True:
        try:
            return replace(found, valid=section.model_validate(values))
        except ValidationError as error:
            errors = error.errors(include_url=False)
        told = [line for each in errors for line in _explain(section, each).splitlines()]
        # sft takes the values of moe_sft, so that both have the same faults: they are told once.
        told = [f for f in told if not f.startswith("sft") or f"moe_{f}" not in told]
        new = [HIDDEN.sub("://...", line) for line in told if not found.is_about_wrong(line)]
        rest, wrong = _without_wrong(section, values, errors)
        found = Examined(rest, None, list(dict.fromkeys(found.faults + new)), found.wrong | wrong)
        if rest == values:
            return found
        values = rest


def _without_wrong(
    section: type[Section], values: dict, errors: list[dict]
) -> tuple[dict, set[str]]:
    """The values without those of some errors, and the keys whose value is unknown now."""
    rest = {key: dict(part) if isinstance(part, dict) else part for key, part in values.items()}
    wrong = set()
    for error in errors:
        place, kind = error["loc"], error["type"]
        if kind == "missing":
            is_section = len(place) == 1 and section is WorkflowConfig
            _put_in(rest, place, {} if is_section else STAND_IN)
            wrong.add(_name(place))
            continue
        depth = 2 if place and place[0] in SECTIONS and section is WorkflowConfig else 1
        own_key = _name(place[:depth])
        keys_of_fault = [own_key]
        if len(place) < depth and isinstance(error["input"], dict | Section):
            named = _named_keys(rest, _explain(section, error))
            start = f"{own_key}." if own_key else ""
            keys_of_fault = [key for key in named if key.startswith(start)] or [own_key]
        for key in filter(None, keys_of_fault):
            _take_out(rest, key)
            if kind != "extra_forbidden":
                wrong.add(key)
    return rest, wrong


def _named_keys(values: Mapping, fault: str) -> list[str]:
    """The keys of some values that a fault names."""
    return [key for key in _given_keys(values) if _is_named(key, fault)]


def _given_keys(values: Mapping) -> Iterator[str]:
    for name, value in values.items():
        if name in SECTIONS and isinstance(value, Mapping):
            yield from (f"{name}.{key}" for key in value)
        else:
            yield str(name)


def _is_named(key: str, fault: str) -> bool:
    """Whether a fault names a key and its section."""
    words = set(re.findall(r"\w+", fault))
    return words.issuperset(key.split("."))


def _put_in(values: dict, place: tuple, value: object) -> None:
    for part in place[:-1]:
        values = values[part]
    values[place[-1]] = value


def _take_out(values: dict, key: str) -> None:
    section, _, name = key.rpartition(".")
    owner = values.get(section) if section else values
    if isinstance(owner, dict):
        owner.pop(name, None)


def _explain(section: type[Section], fault: dict) -> str:
    place, kind = fault["loc"], fault["type"]
    name = _name(place)
    if kind == "missing":
        return f"{name} is missing{OVER_THE_DEMONSTRATION if name == 'base' else ''}"
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
        first = keys(SECTIONS[name])[0]
        return f"{_set(fault)}should be a section of keys, such as {{{first}: ...}}"
    return _set(fault) + fault["msg"].removeprefix("Input ")


def _set(fault: dict) -> str:
    name, given = _name(fault["loc"]), fault["input"]
    given = given[0] if isinstance(given, list) and len(given) == 1 else given  # `OneOrMore`
    value = json.dumps(given, default=str, ensure_ascii=False)
    return f"{name} = {value}: " if name else ""


def _name(place: tuple) -> str:
    """The name of a place: ("moe", "upcycled_layers", 0) is moe.upcycled_layers[0]."""
    named = [part for part in place if part not in (ONE, SEVERAL)]
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in named]
    return "".join(parts).removeprefix(".")


def _hint(section: type[Section], place: tuple) -> str:
    """The key that was probably meant in place of an unknown one, or the known keys."""
    owner = section.model_fields[place[0]].annotation if len(place) > 1 else section
    known = keys(owner)
    places = _places()
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
    for name, section in SECTIONS.items():
        for key in keys(section):
            places.setdefault(key, []).append(f"in {name}")
    return places


def check_lambda(text: str, where: str) -> float:
    """A lambda as a number. Raises UserError if it is not valid."""
    try:
        return float(lambda_token(text))
    except ValueError as error:
        raise UserError(f"{where} = {text}: {error}") from None


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


def chosen_values(config: WorkflowConfig, hidden: Mapping | None = None) -> dict[str, object]:
    """The values that are not the documented defaults, by key, without those of hidden keys.

    Those of section sft are left out if they follow from sections moe and moe_sft.
    """
    chosen = {}
    own_of_sft = _own_of_sft(config)
    for name, value in config.model_dump(exclude_defaults=True, exclude=hidden).items():
        if name not in SECTIONS:
            chosen[name] = value
            continue
        for key, part in value.items():
            if name != "sft" or key in own_of_sft:
                chosen[f"{name}.{key}"] = part
    return chosen


def shown_choices(config: WorkflowConfig) -> dict[str, object]:
    """The chosen values that a report shows. Its recipe holds them."""
    return chosen_values(config, UNRECORDED)


def changes(old: WorkflowConfig, new: WorkflowConfig) -> Iterator[str]:
    """The values that a report shows and that differ, with their keys, as `key: old -> new`.

    Of a table only the keys that differ are told, such as one of the variants.
    """
    for key in shown_choices(old) | shown_choices(new):
        before, now = map(attrgetter(key), (old, new))
        yield from _differences(key, before, now)


def _differences(key: str, before: object, now: object) -> Iterator[str]:
    """The changes of a value, or of the values in a table."""
    if before == now:
        return
    if not isinstance(before, dict) or not isinstance(now, dict):
        yield f"{key}: {before} -> {now}"
        return
    for name in before | now:
        if name not in now:
            yield f"{key}.{name}: left out"
        elif name not in before:
            yield f"{key}.{name}: added"
        else:
            yield from _differences(f"{key}.{name}", before[name], now[name])


def shown_values(config: WorkflowConfig) -> dict:
    """The values that a report shows, by section."""
    return config.model_dump(exclude=UNRECORDED)


def _own_of_sft(config: WorkflowConfig) -> dict[str, object]:
    """The values of section sft that differ from those that it would inherit."""
    following = WorkflowConfig.model_validate(config.model_dump(exclude={"sft"})).sft
    return {key: value for key, value in config.sft if value != getattr(following, key)}
