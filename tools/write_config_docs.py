"""Write docs/configuration.md from the configuration's classes, and their JSON schema."""

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from xft.config.section import Section, choices_of, item_of, meaning, types_of
from xft.config.sections import TRAININGS, Lambda, SftConfig, XftConfig
from xft.config.training import TrainingConfig
from xft.config.validation import is_section, sections, type_names

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "config.schema.json"
WIDTH = 100
INTRODUCTION = """\
# Configuration

Written from `xft/config/` by `make generated`; `config/config.schema.json` is the same
for editors. Set values in a file of your own (`snakemake --cores 2 --configfile mine.yaml`; a later
file overrides an earlier one), or on the command line, with the keys of a section in braces:
`snakemake --cores 2 --config 'merge={lambdas: [0.75, 0.85]}'`. Without `--configfile`, Snakemake
reads `config.yaml`, a link to the demonstration in `recipes/embedded.yaml`. It does not add to a
file of your own: a key that is left out has the default that is given here. A run prints the values
that are not defaults, and keeps all values in `results/config.yaml`.

A `~` at the start of a path is the home folder, `$NAME` or `${NAME}` the value of an environment
variable. Numbers may be written as text: `"0.75"` is 0.75. A key that needs another one has no
effect without it, and must then be left out or have its default.

The workflow stops before anything runs if a key is unknown or given twice, if a value has a wrong
type, is out of range or has no effect, or if the base model cannot do what is asked: texts longer
than its window, a chat without a chat template, tokens beyond its embedding, a layer or a rank that
it does not have, responses without an EOS token at their end. A base on the hub is checked once it
is in the hub's cache. The workflow also stops if a JSONL file of rows has too few lines for
`data.validation_rows`, a warm-up or `average_last`. Rows that are left out later count here: if too
few stay, the step says so.
"""
BOUNDS = {
    "ge": "at least {}",
    "gt": "greater than {}",
    "le": "at most {}",
    "lt": "less than {}",
    "min_length": "not empty",
}


def document() -> str:
    """The whole text. Keys that all trainings share stand there once."""
    fields = XftConfig.model_fields
    plain = [name for name, field in fields.items() if not is_section(field.annotation)]
    parts = [INTRODUCTION, "## Top level\n", _keys(XftConfig, plain)]
    for name, section in sections():
        keys = list(section.model_fields)
        if name == TRAININGS[0]:
            parts.append(
                "## Keys of all trainings: sections `moe_sft`, `sft`, `mixing` and `heal`\n"
            )
            parts.append(_keys(TrainingConfig, list(TrainingConfig.model_fields)))
        if name in TRAININGS:
            keys = [key for key in keys if _is_own(section, key)]
        summary = " ".join(section.__doc__.split()).removesuffix(".")
        parts += [f"## `{name}`: {summary[0].lower()}{summary[1:]}\n", _keys(section, keys)]
    return "\n".join(parts)


def _is_own(section: type[Section], key: str) -> bool:
    """Whether a section's key is not as all trainings have it."""
    shared, field = TrainingConfig.model_fields.get(key), section.model_fields[key]
    return shared is None or repr(shared) != repr(field)


def schema() -> str:
    """The JSON schema of the configuration."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = XftConfig.model_json_schema() | {"title": "Configuration of the XFT pipeline"}
    return json.dumps(head | schema, indent=2) + "\n"


def _keys(section: type[Section], names: list[str]) -> str:
    return "\n".join(_key(section, name) for name in names) + "\n"


def _key(section: type[Section], name: str) -> str:
    field = section.model_fields[name]
    facts = [_types(field.annotation)]
    if limits := _limits(field):
        facts.append(limits)
    facts.append("required" if field.is_required() else f"default `{_yaml(field.get_default())}`")
    if section is SftConfig:
        facts[-1] = "default as in `moe_sft`"
    text = f"- `{name}`: {', '.join(facts)}. {meaning(section, name)}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False)


def _types(annotation: Any) -> str:
    types = " or ".join(type_names(annotation))
    item = item_of(annotation) if list in types_of(annotation) else None
    if item is Lambda:
        return f"{types} of numbers from 0 to 1"
    return f"{types} of {type_names(item)[0]}s" if item else types


def _limits(field: FieldInfo) -> str:
    choices = choices_of(field.annotation) or choices_of(item_of(field.annotation))
    if choices:
        return f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    return ", ".join(
        text.format(getattr(limit, key))
        for limit in field.metadata
        for key, text in BOUNDS.items()
        if getattr(limit, key, None) is not None
    )


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
