"""Makes the tables of the means over the seeds, whose rows unfold to the runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xft.reporting.page.folder import Results, columns_of
from xft.reporting.tables import LOSS

# The columns of a mean that the title holds.
IN_TITLE = ("dataset", "problems")


@dataclass(frozen=True)
class Run:
    """The run of a model with one seed. cells: its scores and loss, as texts.

    column: of its solutions in the table of problems; None if they are not there.
    """

    seed: str
    cells: list[str]
    column: int | None


@dataclass(frozen=True)
class Mean:
    """A model's means over its seeds, as texts in the order of the headings, and its runs."""

    cells: list[object]
    runs: list[Run]


@dataclass(frozen=True)
class Means:
    """The means of all models on a data set."""

    dataset: str
    problems: int
    headings: Sequence[str]
    rows: list[Mean]


def find_means(run: Results) -> Iterator[Means]:
    """The means on each data set. None if no model has several seeds."""
    for dataset in dict.fromkeys(row["dataset"] for row in run.means):
        rows = [row for row in run.means if row["dataset"] == dataset]
        if any(row["seeds"] > 1 for row in rows):
            headings = [key for key in rows[0] if key not in IN_TITLE]
            means = [
                Mean([row[key] for key in headings], list(_runs(run, dataset, row["model"])))
                for row in rows
            ]
            yield Means(dataset, rows[0]["problems"], headings, means)


def _runs(run: Results, dataset: str, label: str) -> Iterator[Run]:
    columns = columns_of(run.solutions.get(dataset, {}))
    of_model = [row for row in run.scores if (row["label"], row["dataset"]) == (label, dataset)]
    for seed in dict.fromkeys(row["seed"] for row in of_model):
        rows = [row for row in of_model if row["seed"] == seed]
        cells = [f"{row['share']:.1f} ({row['low']:.1f} to {row['high']:.1f})" for row in rows]
        if LOSS in run.means[0]:
            loss = rows[0]["loss"]
            cells.append("" if loss is None else f"{loss:.4f}")
        name = rows[0]["name"]
        yield Run(seed, cells, columns.index(name) + 1 if name in columns else None)
