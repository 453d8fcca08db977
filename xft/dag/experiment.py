"""All runs of a configuration, and the artifacts that they share."""

import os
from functools import cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.config.recorded import shown_choices
from xft.config.runs import Run
from xft.config.sections import XftConfig, problem_label
from xft.config.steps import STEPS
from xft.dag.contents import FileContents
from xft.dag.wanted import Shared, Wanted
from xft.dag.wants import Wants
from xft.reporting.runs import MEASURED, Row, write_runs
from xft.store.code import Code
from xft.store.store import Store

RUNS_TABLE = "runs.csv"


class Experiment:
    """The artifacts that all runs of a configuration want."""

    def __init__(self, config: XftConfig, runs: list[Run], contents: FileContents | None = None):
        """Raises UserError if two different sets of problems have the same name."""
        self.config = config
        self.results, self.store = Path(config.results_dir), Store(Path(config.store))
        contents = contents or FileContents()
        self.code = Code(contents.memory)
        self.shared = Shared(self.store, contents, self.code.version_of)
        self.runs = [Wants(run, self.shared) for run in runs]
        self._find_seeds(runs)
        self._own = Wants(Run(config), self.shared)
        self._check_problem_sets()

    def _find_seeds(self, runs: list[Run]) -> None:
        """Let each run know those that differ from it in the seed alone."""
        groups: dict[str, list[Wants]] = {}
        for run, wants in zip(runs, self.runs, strict=True):
            key = run.config.model_copy(update={"seed": 0}).model_dump_json()
            wants.of_seeds = groups.setdefault(key, [])
            wants.of_seeds.append(wants)

    def _check_problem_sets(self) -> None:
        found: dict[str, str] = {}
        for config in (self.config, *(run.config for run in self.runs)):
            for name in [*config.evaluation.datasets, *config.data.decontaminate_against]:
                label = problem_label(name)
                if found.setdefault(label, name) != name:
                    raise UserError(
                        f"config: the problems {found[label]} and {name} would both have the name "
                        f"{label} in the results. Rename a file"
                    )

    @cached_property
    def wanted(self) -> list[Wanted]:
        """All artifacts that a run of the workflow makes, each after those that it is made from."""
        parts = (part for target in self.targets for part in target.chain())
        return list(dict.fromkeys(parts))

    @cached_property
    def targets(self) -> list[Wanted]:
        """The artifacts that no other one is made from: the report."""
        return [self.report]

    @cached_property
    def known(self) -> list[Wanted]:
        """The same, and the models of each run that only a user who names them wants."""
        models = [model for run in self.runs for model in run.main_models()]
        parts = (part for model in models for part in model.chain())
        return list(dict.fromkeys([*self.wanted, *parts]))

    @cached_property
    def by_name(self) -> dict[str, Wanted]:
        """The known artifacts by their names in the results folder."""
        return {name: part for part in self.known for name in part.names}

    @cached_property
    def shown(self) -> dict[Wanted, str]:
        """The results that the summary shows, each with its name."""
        return {
            part: part.name
            for run in self.runs
            for label in run.problem_sets
            for model in run.model_names()
            for part in run.measured(model, label).values()
        }

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table of runs, which name the files of the store.

        A run has a row for each model that it shares with another run which evaluates it, too. The
        runs with the configuration's own values come first: they are references of the others.
        """
        runs = sorted(self.runs, key=lambda run: not run.changes.keys() <= {"seed"})
        models = dict.fromkeys(model for run in self.runs for model in run.model_names())
        return [
            self._row(run, model, label, files)
            for run in runs
            for label in run.problem_sets
            for model in models
            if (files := run.measured(model, label))["eval"] in self.shown
        ]

    def _row(self, run: Wants, model: str, label: str, files: dict[str, Wanted]) -> Row:
        return Row(
            model=model,
            variant=run.name,
            seed=run.config.seed,
            dataset=label,
            **{step: part.place for step, part in files.items() if part in self.shown},
        )

    def table(self, folder: Path) -> str:
        """The table of runs as CSV, with paths as seen from a folder."""
        rows = []
        for row in self.rows:
            files = {step: Path(os.path.relpath(file, folder)) for step, file in row.files.items()}
            rows.append(row.model_copy(update=files))
        return write_runs(rows)

    @cached_property
    def summary(self) -> Wanted:
        """The tables of results. Their recipe holds the names that they show."""
        shown = [
            row.model_dump(mode="json", exclude={*MEASURED}) | {"files": sorted(row.files)}
            for row in self.rows
        ]
        select = self.config.merge.select
        options = {"rows": shown, "chosen_by": None if select == "auto" else select}
        sources = {f"results {number}": part for number, part in enumerate(self.shown)}
        return self._of_all_runs("summary", options, sources, {"chosen_by": options["chosen_by"]})

    @cached_property
    def report(self) -> Wanted:
        """The page about the results. Its recipe holds the configuration that it shows."""
        options = {"config": shown_choices(self.config)}
        return self._of_all_runs("report", options, {"summary": self.summary}, {})

    def _of_all_runs(self, step: str, options: dict, sources: dict, flags: dict) -> Wanted:
        file = STEPS[step].file
        about = {"file": file, "names": [file], "flags": flags}
        return self.shared.artifact(self._own, step, options, sources, **about)
