"""Write envs/*.yaml, the conda environments of the rules, from the pins in pyproject.toml, and from
requirements.lock, which has what these need."""

import json
import re
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENTS = PROJECT["tool"]["xft"]["environments"]
REMOTE = PROJECT["project"]["optional-dependencies"]["remote"]  # each job may publish what it made
HEAD = """\
# Written by tools/write_envs.py from pyproject.toml and requirements.lock.
channels:
  - conda-forge
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def requirements() -> list[str]:
    """All requirements of the groups and of the extras, and torch."""
    project = PROJECT["project"]
    lines = []
    for group in PROJECT["dependency-groups"].values():
        lines += [line for line in group if isinstance(line, str)]
    lines += [line for line in project["dependencies"] if line.startswith("torch")]
    for extra, pins_of_extra in project["optional-dependencies"].items():
        if extra != "all":
            lines += pins_of_extra
    return lines


def pins() -> dict[str, str]:
    """The requirement of each package, by its name."""
    return {re.split(r"[=<>]", line)[0]: line for line in requirements()}


def locked(packages: list[str]) -> set[str]:
    """The requirements of these packages, and of all that they need, in the lock."""
    lines = defaultdict(set)  # the requirements of each package
    needs = defaultdict(set)  # the packages that each one needs
    for line in LOCK.read_text().splitlines():
        if "==" in line:
            name = line.partition("==")[0]
            lines[name].add(line.rstrip(" \\"))
            continue
        needed_by = re.fullmatch(r"    #(?: via|  ) ([\w.-]+)", line)
        if needed_by is not None:
            needs[needed_by[1]].add(name)
    names = set()
    waiting = [package.replace("_", "-") for package in packages]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += needs[name]
    return set().union(*(lines[name] for name in names))


def environment(packages: list[str]) -> str:
    """The text of an env file: python and pip from conda-forge, pinned packages from PyPI.

    vLLM and torch choose the versions of what only they need.
    """
    known = pins()
    packages = [*packages, *(pin.partition("==")[0] for pin in REMOTE)]
    if "vllm" in packages:
        pip = {known[package] for package in packages}
    else:
        pip = locked(packages) | {known[package] for package in packages if package == "torch"}
    return HEAD + "".join(f"      - {json.dumps(package)}\n" for package in sorted(pip))


def main() -> None:
    for name, packages in ENVIRONMENTS.items():
        (ROOT / "envs" / f"{name}.yaml").write_text(environment(packages))


if __name__ == "__main__":
    main()
