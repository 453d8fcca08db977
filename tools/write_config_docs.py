"""Write the documents' lists of keys and of commands, and the keys' JSON schema, from the code."""

import io
import json
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path

from xft.config.section import Section, meaning, schemas
from xft.config.sections import SECTIONS, TRAININGS, TunedElsewhere, WorkflowConfig
from xft.config.steps import STEPS
from xft.config.training import TrainingConfig, TuningConfig
from xft.tools.xft import TOOLS

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "configuration.md"
REFERENCE = ROOT / "docs" / "reference.md"
SCHEMA = ROOT / "config" / "config.schema.json"
TOP = "## Top level\n"
COMMANDS = "## Commands\n"
HEAD = ("key", "value", "default", "meaning")
# An argument in the output of --help, and the lines that explain it.
ARGUMENT = re.compile(r"^  (?!-h)(\S.*?)(?:  +|\n {24})(\S.*(?:\n {10,}.*)*)", re.MULTILINE)
# The step that reads a section's keys, if nothing else is said and none has the section's name.
READERS = {"data": "tokens", "mixing": "weighted_trained", "evaluation": "eval"}
SHARED = (TrainingConfig, TuningConfig, TunedElsewhere)  # by several sections
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "not empty",
    "minLength": "not empty",
}


def document() -> str:
    """docs/configuration.md: its own introduction, and all keys as the classes have them.

    Keys that several trainings share stand there once.
    """
    plain = [name for name in WorkflowConfig.model_fields if name not in SECTIONS]
    introduction = DOCUMENT.read_text(encoding="utf-8").partition(TOP)[0]
    parts = [introduction + TOP, _keys(WorkflowConfig, plain)]
    for name, section in SECTIONS.items():
        if name == TRAININGS[0]:
            parts += ["## Keys of several trainings\n", _shared()]
        keys = [key for key in section.model_fields if _is_own(section, key)]
        summary = " ".join(section.__doc__.split()).removesuffix(".")
        table = _keys(section, keys, name) if keys else "It has the keys of several trainings.\n"
        parts += [f"## `{name}`: {summary[0].lower()}{summary[1:]}\n", table]
    return "\n".join(parts)


def _shared() -> str:
    """The keys that several sections have from one class."""
    rows = []
    for group in SHARED:
        owners = [name for name, section in SECTIONS.items() if issubclass(section, group)]
        note = f" Only in {', '.join(owners)}." if len(owners) < len(TRAININGS) else ""
        for key in group.model_fields:
            if _is_own(group, key):
                rows.append(_key(group, key, note=note))
    return _table(rows, *HEAD)


def _is_own(section: type[Section], key: str) -> bool:
    """Whether a section's key is not as a class of `SHARED` above it has it."""
    above = [group for group in SHARED if issubclass(section, group) and group is not section]
    field = repr(section.model_fields[key])
    return all(repr(group.model_fields.get(key)) != field for group in above)


def commands() -> str:
    """docs/reference.md: its own introduction, and the commands of `xft` with their arguments."""
    rows = []
    for name, tool in TOOLS.items():
        help_text = io.StringIO()
        with suppress(SystemExit), redirect_stdout(help_text):
            tool.main(["--help"])
        meanings = [(f"**`xft {name}`**", tool.__doc__)]
        for flag, text in ARGUMENT.findall(help_text.getvalue()):
            meanings.append((f"`{flag}`", text))
        for command, text in meanings:
            rows.append(f"| {command} | {_linked(' '.join(text.split()))} |")
    introduction = REFERENCE.read_text(encoding="utf-8").partition(COMMANDS)[0]
    return "\n".join([introduction + COMMANDS, _table(rows, "command, its arguments", "meaning")])


def schema() -> str:
    """The JSON schema of the configuration."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = WorkflowConfig.model_json_schema() | {"title": "Configuration of the XFT pipeline"}
    return json.dumps(head | schema, indent=2) + "\n"


def _keys(section: type[Section], names: list[str], place: str = "") -> str:
    return _table([_key(section, name, place) for name in names], *HEAD)


def _table(rows: list[str], *head: str) -> str:
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *rows]) + "\n"


def _key(section: type[Section], name: str, place: str = "", note: str = "") -> str:
    """A row of a table. note: what follows the meaning."""
    field = section.model_fields[name]
    forms = schemas(section, name)
    value = " or ".join(_type(form) for form in forms)
    limits = _limits(forms[0])
    if limits:
        value += f", {limits}"
    default = "required" if field.is_required() else f"`{_yaml(field.get_default())}`"
    key = f"{place}.{name}".removeprefix(".")
    readers = ", ".join(step for step, declared in STEPS.items() if key in declared.keys)
    text = _linked(meaning(section, name))
    if readers not in ("", READERS.get(place, place)):
        text += f" Read by {readers}."
    return f"| `{name}` | {value} | {default} | {text}{note} |"


def _linked(text: str) -> str:
    """A text with links to the documents that it names."""
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def _type(schema: dict) -> str:
    kind = schema.get("items", {}).get("type")
    if kind is None:
        return schema["type"]
    if isinstance(kind, list):  # of lambdas
        return f"{schema['type']} of numbers from 0 to 1"
    return f"{schema['type']} of {kind}s"


def _limits(schema: dict) -> str:
    choices = (schema | schema.get("items", {})).get("enum")
    if choices:
        return f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    return ", ".join(BOUNDS[key].format(schema[key]) for key in BOUNDS if key in schema)


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")
    REFERENCE.write_text(commands(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
