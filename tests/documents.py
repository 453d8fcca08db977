"""The documents of the project: their blocks, and the marks above these.

A mark is an HTML comment on the line above a block:

- `<!-- needs: a GPU -->`: no test runs the block, since it needs what no test has (NEEDS).
- `<!-- tested by tests/... -->`: that test runs its commands.
- `<!-- file: mine.yaml -->`: the block is that file, which blocks further down need.
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("benchmarks", "config", "experiments", "recipes", "resources")
DOCUMENTS += [ROOT / folder / "README.md" for folder in FOLDERS]
# Those whose blocks without a mark tests/slow/test_docs_commands.py runs, in this order.
RUN = ["own-model", "by-hand", "planning", "design", "hub", "extending"]
RUN = [f"docs/{name}.md" for name in RUN]
TRAINERS = "docs/trainers.md"  # tests/slow/test_trainers.py runs it
NEEDS = {"a GPU", "a cluster", "the hub", "a second environment", "some minutes"}
FENCE = re.compile(r"^```(\S*)$")
MARK = re.compile(r"^<!-- (needs:|tested by|file:) (.*) -->$")
HEADING = re.compile(r"^#+ (.*)$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CLONE = re.compile(r"git clone (?:<[^>]*>|\S+)(?: (.+))? && cd (\S+)")
CODE = re.compile(r"`([^`]+)`")
PROGRAMS = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable]}


@dataclass(frozen=True)
class Block:
    """A fenced block. where: document:line; mark: kind and value, None where there is none."""

    where: str
    language: str
    text: str
    mark: tuple[str, str] | None

    def run(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Run it in a folder. It must end well."""
        command = [*PROGRAMS[self.language], "-c", self.text]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{self.where}:\n{done.stdout}{done.stderr}"


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in its order."""
    found, start, lines = [], None, document.read_text().splitlines()
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence and start is None:
            start, language = number, fence[1]
        elif fence:
            mark = MARK.match(lines[start - 1])
            where = f"{document.relative_to(ROOT)}:{start + 1}"
            text = "".join(f"{line}\n" for line in lines[start + 1 : number])
            found.append(Block(where, language, text, mark and (mark[1].strip(":"), mark[2])))
            start = None
    assert start is None, f"{document}: the block of line {start + 1} has no end"
    return found


def clone_folders(document: Path) -> list[str]:
    """The folders into which a document clones the project. It names each, and enters it."""
    found = CLONE.findall(document.read_text())
    assert all(folder == entered for folder, entered in found), f"{document}: {found}"
    return [folder for folder, _ in found]


def prose(document: Path) -> list[str]:
    """The lines of a document outside of its fenced blocks."""
    lines, inside = [], False
    for line in document.read_text().splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    return lines


def links(document: Path) -> list[str]:
    """Where the links of a document lead, but those with an address, in its order."""
    text = CODE.sub("", "\n".join(prose(document)))
    return [link for link in LINK.findall(text) if "://" not in link]


def anchors(document: Path) -> set[str]:
    """What `#...` may follow a link to a document: its headings, as GitHub names them."""
    headings = [match[1] for line in prose(document) if (match := HEADING.match(line))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
