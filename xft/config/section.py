"""The base class of all sections of the configuration, and types for their keys."""

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from io import StringIO
from math import inf
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Tag

from xft.common.optional import SCHEMES
from xft.common.user_code import FORM, UserCode

LARGEST = 1e12  # number: what is estimated from several of them is still finite
# How a fault's place names the form of a `OneOrMore`.
ONE = "one value"
SEVERAL = "a list"
SECRET = re.compile(r"://([^@]*:[^@]*@|.*[?#])")  # in a URL, or what may be one
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)  # as os.path.expandvars finds it


@dataclass(frozen=True)
class Needs:
    """Marks a key that has an effect only beside a value of another key of its section.

    value: of the other key. None: any value but null, false and 0.
    """

    key: str
    value: str | None = None

    def is_met(self, values: Mapping[str, Any]) -> bool:
        """Whether the values of a section have the needed one."""
        value = values.get(self.key)
        if self.value is None:
            return value not in (None, "null", False)  # False equals 0
        return value == self.value

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key} = {self.value}"


class Unrecorded:
    """Marks a key that changes no result. No recipe holds it, and no report shows it."""


def _with_needs(schema: dict, section: type) -> None:
    """Say in the JSON schema of a section which keys need another one."""
    for key in marked(section, Needs):
        schema["properties"][key]["description"] = meaning(section, key)


class Section(BaseModel):
    """A group of keys, each with its type, range, default and description.

    Numbers and booleans may be texts such as "5e-5": YAML 1.1 reads 5e-5 as text, and
    `snakemake --config` passes every nested value as text.

    instead: a key beside whose value no other key of the section has an effect.
    """

    instead: ClassVar[str | None] = None

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        json_schema_extra=_with_needs,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_) -> None:
        """Raise TypeError if a key needs one that this class lacks."""
        needed = {need.key for need in marked(cls, Needs).values()}
        if cls.instead is not None:
            needed.add(cls.instead)
        lacking = needed - cls.model_fields.keys()
        if lacking:
            raise TypeError(f"{cls.__name__} lacks keys that its keys need: {', '.join(lacking)}")

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any, info) -> Any:
        is_optional = cls.model_fields[info.field_name].default is None
        return None if value == "null" and is_optional else value

    @pydantic.field_validator("*")
    @classmethod
    def _numbers_are_not_huge(cls, value: Any) -> Any:
        if isinstance(value, int | float) and value > LARGEST:
            raise ValueError(f"must be at most {LARGEST:g}")
        return value

    @pydantic.model_validator(mode="after")
    def _each_key_has_an_effect(self):
        """A key may have its default without an effect, so that a complete configuration is one."""
        fields = type(self).model_fields
        values = dict(self)
        needs = without_effect(type(self), values)
        given = [key for key in needs if values[key] != fields[key].get_default()]
        if not given:
            return self
        need = needs[given[0]]
        names = [key for key in given if needs[key] == need]
        equations = ", ".join(_equation(name, values[name]) for name in names)
        raise NoEffect(
            f"{equations}: no effect with {_equation(need.key, values[need.key])}. Leave out "
            f"{' and '.join(names)}, or set {need} too"
        )


class NoEffect(ValueError):
    """Says that a key has no effect beside the others."""


def _unique(values: list) -> list:
    repeated: list[str] = []
    for value in values:
        if values.count(value) > 1 and str(value) not in repeated:
            repeated.append(str(value))
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


def _equation(key: str, value: Any) -> str:
    """A key with its value, for a message."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key} = {text}"


def _path(value: str) -> str:
    """A path with the home folder in place of a `~` at its start, and the values of variables."""
    value = os.path.expanduser(os.path.expandvars(value))  # noqa: PTH111
    unset = VARIABLE.search(value)
    if unset is not None:
        raise ValueError(
            f"names the variable {unset[1] or unset[2]}, which is not set. Set it with export, or "
            "write the path itself"
        )
    return value


def check_store(store: str) -> str:
    """The folder or the URL of a store. Raises ValueError if it is a URL that cannot be one."""
    if SECRET.search(store):
        raise ValueError(
            "holds a password or a key, or what may be one. Credentials come from the environment "
            "or the files of the scheme's own library (docs/sharing.md)"
        )
    if "://" in store and not store.startswith(tuple(SCHEMES)):
        raise ValueError(f"is a URL of another kind than {', '.join(SCHEMES)}")
    return store


def _url(store: str) -> str:
    if "://" not in store:
        raise ValueError("should be a URL, such as s3://bucket/folder")
    return store


Item = TypeVar("Item")
Mark = TypeVar("Mark")
# A list whose items must differ.
UniqueList = Annotated[
    list[Item], AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})
]
# A value, or a list of several. A list of one is the same as its item.
OneOrMore = Annotated[
    Annotated[Item, Tag(ONE)] | Annotated[list[Item], Field(min_length=1), Tag(SEVERAL)],
    pydantic.Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
    BeforeValidator(lambda v: v[0] if isinstance(v, list) and len(v) == 1 else v),
]
Name = Annotated[str, Field(min_length=1)]
PathText = Annotated[Name, AfterValidator(_path), Field(json_schema_extra={"format": "path"})]
StoreText = Annotated[PathText, AfterValidator(check_store)]
UrlText = Annotated[StoreText, AfterValidator(_url)]
# The name of something that is no file, such as humaneval, or the path of a file.
NameOrFile = Annotated[
    Name, AfterValidator(_path), Field(json_schema_extra={"format": "file-path"})
]
# Code in a file, with its arguments in order. The key has a mark `Names`.
CodeText = Annotated[
    PathText,
    AfterValidator(lambda text: str(UserCode.of(text))),
    pydantic.WithJsonSchema({"type": "string", "pattern": f"^{FORM}$"}),
]
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None


@cache
def keys(section: type[Section]) -> tuple[str, ...]:
    """The keys of a section, in order."""
    return tuple(section.model_fields)


@cache
def _properties(section: type[Section]) -> dict[str, dict]:
    return section.model_json_schema()["properties"]


def schemas(section: type[Section], key: str) -> list[dict]:
    """The JSON schema of each type that a key may have, null last."""
    return _flat(_properties(section)[key])


def limits(section: type[Section], key: str) -> tuple[float, float]:
    """The ends of the range of numbers that a key may have; infinite without one."""
    least, most = [-inf], [inf]
    for schema in schemas(section, key):
        step = 1 if schema.get("type") == "integer" else 0
        least.append(schema.get("minimum", -inf))
        least.append(schema.get("exclusiveMinimum", -inf) + step)
        most.append(schema.get("maximum", inf))
        most.append(schema.get("exclusiveMaximum", inf) - step)
    return max(least), min(most)


def _flat(schema: dict) -> list[dict]:
    """A JSON schema, or all in which it is nested."""
    parts = schema.get("anyOf") or schema.get("oneOf")
    if not parts:
        return [schema]
    forms = []
    for part in parts:
        forms += _flat(part)
    return forms


@cache
def marked(section: type[Section], kind: type[Mark]) -> dict[str, Mark]:
    """The keys of a section that have a mark of a kind, such as `Needs` or `Names`, with it."""
    marks = {}
    for key, field in section.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, kind):
                marks[key] = mark
    return marks


@cache
def unrecorded(section: type[Section]) -> frozenset[str]:
    """The keys of a section that change no result."""
    fields = section.model_fields.items()
    return frozenset(key for key, field in fields if Unrecorded in field.metadata)


def meaning(section: type[Section], key: str) -> str:
    """The description of a key in one line, with what the key needs."""
    need = marked(section, Needs).get(key)
    text = " ".join(section.model_fields[key].description.split())
    return f"{text} Needs {need}." if need else text


def without_effect(section: type[Section], values: Mapping[str, Any]) -> dict[str, Needs]:
    """The keys of a section that have no effect beside these values, with what they need."""
    if section.instead and values.get(section.instead) not in (None, "null"):
        need = Needs(section.instead, "null")
        return {key: need for key in keys(section) if key != section.instead}
    needs = marked(section, Needs)
    return {key: need for key, need in needs.items() if not need.is_met(values)}


def as_csv(kind: type[Section], rows: Iterable[Section]) -> str:
    """The text of a CSV table with a column for each key of a section.

    rows: sections of this kind.
    """
    text = StringIO()
    table = csv.DictWriter(text, kind.model_fields, lineterminator="\n")
    table.writeheader()
    table.writerows(row.model_dump() for row in rows)
    return text.getvalue()
