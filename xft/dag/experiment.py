"""All runs of a configuration, and the artifacts that they share."""

import os
from functools import cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.config.recorded import shown_choices
from xft.config.runs import Run
from xft.config.sections import WorkflowConfig, problem_label
from xft.config.steps import STEPS
from xft.dag.contents import FileContents
from xft.dag.graph import Graph, Nodes
from xft.dag.node import Input, Node, made
from xft.reporting.run_table import MEASURED, Row, write_runs
from xft.store.code import Code
from xft.store.store import Store

RUNS_TABLE = "runs.csv"


class Experiment:
    """The artifacts that all runs of a configuration want."""

    def __init__(self, config: WorkflowConfig, runs: list[Run], contents: FileContents):
        """Raises UserError if two different sets of problems have the same name."""
        self.config = config
        self.results, self.store = Path(config.results_dir), Store(Path(config.store))
        self.code = Code(contents.file_hashes)
        self.nodes = Nodes(self.store, contents, self.code)
        self.runs = [Graph(run, self.nodes) for run in runs]
        self._find_seeds()
        self._check_problem_sets()

    def _find_seeds(self) -> None:
        """Let each run know those that differ from it in the seed alone."""
        groups: dict[str, list[Graph]] = {}
        for run in self.runs:
            key = run.config.model_copy(update={"seed": 0}).model_dump_json()
            run.of_seeds = groups.setdefault(key, [])
            run.of_seeds.append(run)

    def _check_problem_sets(self) -> None:
        names: dict[str, str] = {}
        for config in (self.config, *(run.config for run in self.runs)):
            for name in [*config.evaluation.datasets, *config.data.decontaminate_against]:
                label = problem_label(name)
                if names.setdefault(label, name) != name:
                    raise UserError(
                        f"config: the problems {names[label]} and {name} would both have the name "
                        f"{label} in the results. Rename a file"
                    )

    @cached_property
    def wanted(self) -> list[Node]:
        """All artifacts that a run of the workflow makes, each after those that it is made from."""
        return list(self.report.ancestors())

    @cached_property
    def known(self) -> list[Node]:
        """All wanted artifacts, and the models of each run, which a user may ask for by name."""
        models = [model for run in self.runs for model in run.main_models()]
        nodes = (node for model in models for node in model.ancestors())
        return list(dict.fromkeys([*self.wanted, *nodes]))

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """The known artifacts by their names in the results folder."""
        return {name: node for node in self.known for name in node.names}

    @cached_property
    def shown(self) -> dict[Node, str]:
        """The results that the summary shows, each with its name."""
        return {
            node: node.name
            for run in self.runs
            for label in run.problem_sets
            for model in run.model_names()
            for node in run.measured(model, label).values()
        }

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table of runs, which name the files of the store.

        A run has a row for each model that it shares with another run which evaluates it, too. The
        runs with the configuration's own values come first: they are references of the others.
        """
        runs = sorted(self.runs, key=lambda graph: not graph.run.changes.keys() <= {"seed"})
        models = dict.fromkeys(model for run in self.runs for model in run.model_names())
        return [
            self._row(run, model, label, files)
            for run in runs
            for label in run.problem_sets
            for model in models
            if (files := run.measured(model, label))["eval"] in self.shown
        ]

    def _row(self, graph: Graph, model: str, label: str, files: dict[str, Node]) -> Row:
        return Row(
            model=model,
            variant=graph.run.name,
            seed=graph.config.seed,
            dataset=label,
            **{step: node.place for step, node in files.items() if node in self.shown},
        )

    def table(self, folder: Path) -> str:
        """The table of runs as CSV, with paths as seen from a folder."""
        rows = []
        for row in self.rows:
            files = {step: Path(os.path.relpath(file, folder)) for step, file in row.files.items()}
            rows.append(row.model_copy(update=files))
        return write_runs(rows)

    @cached_property
    def summary(self) -> Node:
        """The tables of results. Their recipe holds the names that they show."""
        shown = [
            row.model_dump(mode="json", exclude={*MEASURED}) | {"files": sorted(row.files)}
            for row in self.rows
        ]
        select = self.config.merge.select
        options = {"rows": shown, "chosen_by": None if select == "auto" else select}
        inputs = [
            made("results", node, f"results {number}") for number, node in enumerate(self.shown)
        ]
        return self._of_all_runs("summary", options, inputs, {"chosen_by": options["chosen_by"]})

    @cached_property
    def report(self) -> Node:
        """The page about the results. Its recipe holds the configuration that it shows."""
        options = {"config": shown_choices(self.config)}
        return self._of_all_runs("report", options, [made("summary", self.summary)], {})

    def _of_all_runs(self, step: str, recorded: dict, inputs: list[Input], flags: dict) -> Node:
        run, file = Run(self.config), STEPS[step].file
        return self.nodes.get(
            step, recorded, inputs, run=run, file=file, options=flags, names=[file]
        )
