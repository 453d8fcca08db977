"""Write docs/configuration.md from the configuration's schema."""

from pathlib import Path

from workflow_scripts import configuration

DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

Written from `workflow_scripts/config.schema.json` by `make generated`; do not edit.

Three ways to set a value:

- in a file of your own: `snakemake --cores 2 --configfile mine.yaml`. You can give several files.
  The values of later files replace those of earlier ones;
- on the command line: `snakemake --cores 2 --config 'merge={lambdas: [0.75, 0.85]}'`. A key of a
  section is written in braces, as here; Snakemake refuses `merge.lambdas=...`;
- without `--configfile`: in `config.yaml`, which holds the demonstration.

A key that is left out has the default given here. With your own file, `config.yaml` is not read. A
run prints the values that are not defaults, and writes all values to `results/config.yaml`. A `~`
at the start of a path is the home folder. The workflow stops before anything runs if a key is
unknown or appears twice, or if a value has a wrong type or is out of range. It also stops if the
base model does not support a value: texts longer than its window, a chat without a chat template,
tokens beyond its embedding. A base on the hub is checked once it is in the hub's cache. Numbers may
be written as text: `"0.75"` is 0.75. If you change a value, only the rules that depend on it run
again.
"""
HEADER = "| key | type | default | allowed | meaning |\n|---|---|---|---|---|"
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "minLength": "not empty",
    "minItems": "not empty",
}


def document() -> str:
    """The text of the document."""
    top = configuration.properties()
    plain = {name: sub for name, sub in top.items() if sub["type"] != "object"}
    parts = [INTRODUCTION, "## Top level\n", _table(plain)]
    for name, subschema in top.items():
        if subschema["type"] == "object":
            parts += [f"## `{name}`\n", f"{subschema['description']}\n"]
            parts.append(_table(configuration.properties(name), name))
    return "\n".join(parts)


def _table(properties: dict[str, dict], section: str | None = None) -> str:
    required = configuration.required(section)
    rows = [_row(name, subschema, name in required) for name, subschema in properties.items()]
    return "\n".join([HEADER, *rows, ""])


def _row(name: str, subschema: dict, required: bool) -> str:
    default = "required" if required else f"`{_yaml(subschema['default'])}`"
    types = " or ".join(_as_list(subschema["type"]))
    cells = [f"`{name}`", types, default, _allowed(subschema), subschema["description"]]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _allowed(subschema: dict) -> str:
    if "items" in subschema:
        return f"list of: {_allowed(subschema['items']) or 'strings'}"
    if "enum" in subschema:
        return ", ".join(f"`{_yaml(value)}`" for value in subschema["enum"])
    return ", ".join(
        text.format(subschema[key]) for key, text in BOUNDS.items() if key in subschema
    )


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _yaml(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(_yaml(item) for item in value)}]"
        case _:
            return str(value)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
