"""The parts of a section of the report, and the axes that its charts have in common."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from xft.reporting.comparisons import LOSSES, SCORES
from xft.reporting.page.folder import Folder, Solution

MOST = 10  # lines (each has its colour), maps, and models with all solutions: 500 take 40 MB
# The title of an axis, and the format of a value.
SHOWN = {SCORES: ("problems solved, %", ".1f"), LOSSES: (f"{LOSSES.name}, nats per token", ".4f")}
FAR = 3  # The base is far away if a chart of losses would be so many times as long with it.


@dataclass(frozen=True)
class Part:
    """A part of a section: a note, and a verdict, sentences, a chart, a table, a text, or problems.

    answers: see `Summary.asked`.
    run: the folder with the verdict.
    table: rows by heading.
    problems: name, prompt (may be unknown) and solutions of all models, in their order.
    solved: a table of these models and the families of problems.
    is_folded: shown by a click alone.
    """

    title: str = ""
    note: str = ""
    answers: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    run: Folder | None = None
    lines: list[str] = field(default_factory=list)
    chart: dict | None = None
    table: list[Mapping[str, str]] = field(default_factory=list)
    text: str = ""
    problems: list[tuple[str, str, list[Solution]]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    solved: list[Sequence] = field(default_factory=list)
    is_folded: bool = False


def span(rows: Collection[Mapping]) -> float:
    """How long a chart of rows with intervals is."""
    return max(row["high"] for row in rows) - min(row["low"] for row in rows)
