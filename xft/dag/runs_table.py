"""The table of runs: which files of the store hold the results of each model of each run."""

import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from xft.dag.choices import Methods
from xft.dag.graph import Graph
from xft.dag.nodes import Node
from xft.reporting.run_table import RunRow, swept_text, write_runs

RUNS_TABLE = "runs.csv"


def rows(evaluated: Sequence[Graph | Methods], shown: Container[Node]) -> list[RunRow]:
    """The rows of the table, which name the files of the store.

    A run has a row for each model that it shares with another run which evaluates it, too. The
    runs with the configuration's own values come first: they are references of the others.

    evaluated: the runs, or their methods at chosen settings. shown: the results that the summary
    shows.
    """
    graphs = sorted(evaluated, key=_has_other_values)
    models = list(dict.fromkeys(model for graph in graphs for model in graph.models()))
    table = []
    for graph in graphs:
        for label in graph.data_sets:
            for model in models:
                results = graph.measured(model, label)
                if results["eval"] in shown:
                    files = {step: node for step, node in results.items() if node in shown}
                    table.append(_row(graph, str(model), label, files))
    return table


def _has_other_values(graph: Graph | Methods) -> bool:
    """Whether a run has other values than the configuration's own, apart from its seed."""
    return not graph.run.changes.keys() <= {"seed"}


def _row(graph: Graph | Methods, model: str, label: str, results: Mapping[str, Node]) -> RunRow:
    run = graph.run
    return RunRow(
        model=model,
        variant=run.name,
        control=run.control,
        plain_variant=run.variant,
        own_name=run.own_name,
        swept=swept_text(run.swept),
        seed=graph.config.seed,
        dataset=label,
        **{step: node.place for step, node in results.items()},
    )


def as_seen_from(folder: Path, table: Sequence[RunRow]) -> str:
    """The table as CSV, with paths as seen from a folder."""
    seen = []
    for row in table:
        files = {step: Path(os.path.relpath(file, folder)) for step, file in row.files.items()}
        seen.append(row.model_copy(update=files))
    return write_runs(seen)
