"""Write docs/files.md, what each file of the project is for, from the files' own first words."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "files.md"
INTRODUCTION = """\
# What each file is for

Written by `make generated` from the first words of each file; do not edit. [design.md](design.md)
says how the parts go together.
"""
AT_THE_TOP = """\
- `config.yaml`, `recipes/`: configurations. `profiles/`: how Snakemake runs by default.
- `requirements*.txt`: the pins, of which `tools/` writes `envs/`.
- `tests/unit`: the library and the steps; `tests/workflow`: the rules; `tests/slow`: kills, conda,
  real models; `tests/golden`: what the published modules compute; `tests/stand_ins`: packages that
  need not be installed; `tests/pause`: code that pauses a training in a test.
"""
STEPS = ROOT / "workflow_scripts"
OTHERS = ("tools", "benchmarks", "resources")


def document() -> str:
    """The whole text."""
    rules = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
    parts = [INTRODUCTION, AT_THE_TOP, "## Rules\n", _table(rules)]
    parts += ["## `workflow_scripts`: the steps, and what they share\n", _table(_modules(STEPS))]
    for package in sorted(path.parent for path in STEPS.glob("*/__init__.py")):
        title = f"## `workflow_scripts/{package.name}`\n"
        parts += [title, f"{_docstring(package / '__init__.py')}\n", _table(_modules(package))]
    for folder in OTHERS:
        parts += [f"## `{folder}`\n", _table(_modules(ROOT / folder))]
    return "\n".join(parts)


def _modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def _table(files: list[Path]) -> str:
    rows = [f"| `{file.name}` | {_purpose(file)} |" for file in files]
    return "\n".join(["| file | what it is for |", "|---|---|", *rows, ""])


def _purpose(file: Path) -> str:
    words = _docstring(file) if file.suffix == ".py" else _comment(file)
    return words.replace("|", "\\|").replace("<", "&lt;")


def _docstring(file: Path) -> str:
    """The first paragraph of a module's docstring, in a line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    return " ".join(text.split("\n\n")[0].split())


def _comment(file: Path) -> str:
    """The comment at the top of a file of rules, in a line."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)


def main() -> None:
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
