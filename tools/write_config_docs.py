"""Write the keys in docs/configuration.md, and their JSON schema, from the classes."""

import json
import textwrap
from pathlib import Path

from xft.config.section import Section, meaning, schemas
from xft.config.sections import TRAININGS, SftConfig, XftConfig
from xft.config.steps import STEPS
from xft.config.training import TrainingConfig, TuningConfig
from xft.config.validation import is_section, sections

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "config.schema.json"
WIDTH = 100
TOP = "## Top level\n"
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "not empty",
    "minLength": "not empty",
}


def document() -> str:
    """The whole text: the document's own introduction, and all keys as the classes have them.

    Keys that all trainings share stand there once.
    """
    fields = XftConfig.model_fields
    plain = [name for name, field in fields.items() if not is_section(field.annotation)]
    introduction = DOCUMENT.read_text(encoding="utf-8").partition(TOP)[0]
    parts = [introduction + TOP, _keys(XftConfig, plain)]
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
        parts += [f"## `{name}`: {summary[0].lower()}{summary[1:]}\n", _keys(section, keys, name)]
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


def _keys(section: type[Section], names: list[str], place: str = "") -> str:
    return "\n".join(_key(section, name, place) for name in names) + "\n"


def _key(section: type[Section], name: str, place: str) -> str:
    field = section.model_fields[name]
    found = schemas(section, name)
    facts = [" or ".join(map(_type, found))]
    if limits := _limits(found[0]):
        facts.append(limits)
    facts.append("required" if field.is_required() else f"default `{_yaml(field.get_default())}`")
    if section is SftConfig and name in TuningConfig.model_fields:
        facts[-1] = "default as in `moe_sft`"
    key = f"{place}.{name}".removeprefix(".")
    readers = ", ".join(step for step, declared in STEPS.items() if key in declared.keys)
    text = f"- `{name}`: {', '.join(facts)}. {meaning(section, name)}"
    text += f" Read by {readers}." * bool(readers)
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False)


def _type(schema: dict) -> str:
    kind = schema.get("items", {}).get("type")
    if isinstance(kind, list):  # of lambdas
        return f"{schema['type']} of numbers from 0 to 1"
    return f"{schema['type']} of {kind}s" if kind else schema["type"]


def _limits(schema: dict) -> str:
    choices = (schema | schema.get("items", {})).get("enum")
    if choices:
        return f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    return ", ".join(BOUNDS[key].format(schema[key]) for key in BOUNDS if key in schema)


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
