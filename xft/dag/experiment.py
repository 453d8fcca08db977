"""All runs of a configuration, and the artifacts that they share."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.config.runs import Run
from xft.config.sections import XftConfig
from xft.dag.wanted import FileContents, Wanted, Wants
from xft.hub.named_sets import NAMED_SETS
from xft.reporting.runs import Row, write_runs


@dataclass
class Choice:
    """The merges of one tuned mixture. The best of them becomes the artifact `best`.

    by: validation, for the loss on held-out rows, or benchmark, for the problems that are solved.
    merges: each with the result that it is chosen by.
    """

    place: Path
    by: str
    merges: dict[Wanted, Wanted] = field(default_factory=dict)

    def best(self, number: int) -> Wanted:
        """The merge with a number, as the artifact of rule best."""
        return replace(list(self.merges)[number], place=self.place, rule="best")

    @property
    def measured(self) -> list[Wanted]:
        """The results that the merges are chosen by."""
        return list(self.merges.values())


class Experiment:
    """The artifacts that all runs of a configuration want.

    requested: those that were requested so far, by path in the results folder.
    """

    def __init__(
        self,
        config: XftConfig,
        runs: list[Run],
        results: str | Path,
        contents: FileContents | None = None,
    ):
        """Raises UserError if two different sets of problems have the same name."""
        self.config = config
        self.results = Path(results)
        self.requested: dict[str, Wanted] = {}
        evaluated = [name for run in runs for name in run.config.evaluation.datasets]
        forbidden = list(dict.fromkeys([*NAMED_SETS, *evaluated]))
        shared = self.results, forbidden, self.requested, contents or FileContents()
        self.runs = [Wants(run, *shared) for run in runs]
        self._find_seeds(runs)
        self._own = Wants(Run(config), *shared)
        self.problem_sets = self._problem_sets()

    def _find_seeds(self, runs: list[Run]) -> None:
        """Let each run know those that differ from it in the seed alone."""
        groups: dict[str, list[Wants]] = {}
        for run, wants in zip(runs, self.runs, strict=True):
            key = run.config.model_copy(update={"seed": 0}).model_dump_json()
            wants.of_seeds = groups.setdefault(key, [])
            wants.of_seeds.append(wants)

    def _problem_sets(self) -> dict[str, str]:
        """All sets of problems of all runs, by label: names or files."""
        found: dict[str, str] = {}
        for run in (*self.runs, self._own):
            for label, name in (run.problem_sets | run.forbidden_sets).items():
                if found.setdefault(label, name) != name:
                    raise UserError(
                        f"config: the problems {found[label]} and {name} would both have the name "
                        f"{label} in the results. Rename a file"
                    )
        return found

    def find(self, place: str) -> Wanted:
        """The artifact at a path in the results folder. Raises UserError if no run makes it."""
        for run in (*self.runs, self._own):
            if place in self.requested:
                return self.requested[place]
            with suppress(KeyError):
                run.at(name_of(place))
        if place not in self.requested:
            raise UserError(f"no run of the configuration makes {place}")
        return self.requested[place]

    def fetched_problems(self, label: str) -> Wanted:
        """The file of a named set of problems."""
        return self._own.problems(label)

    @cached_property
    def shown(self) -> dict[Wanted, None]:
        """The results that the summary shows, each once, in order."""
        return dict.fromkeys(part for run in self.runs for part in run.results_to_show())

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table of runs.

        A run has a row for each model that it shares with another run which evaluates it, too.
        """
        models = dict.fromkeys(model for run in self.runs for model in run.model_names())
        return [
            self._row(run, model, label, files)
            for run in self.runs
            for label in run.problem_sets
            for model in models
            if (files := run.measured(model, label))["eval"] in self.shown
        ]

    def _row(self, run: Wants, model: str, label: str, files: dict[str, Wanted]) -> Row:
        changes = [f"{key}~{text}" for key, text in run.changes.items() if key != "seed"]
        return Row(
            model=model,
            variant=(run.name or ", ".join(changes)) if changes else "",
            seed=run.config.seed,
            dataset=label,
            uncleaned=_is_uncleaned(files["eval"]),
            **{step: self.name(part) for step, part in files.items() if part in self.shown},
        )

    @cached_property
    def table(self) -> str:
        """The table of runs as CSV, with paths in the results folder."""
        return write_runs(self.rows)

    @cached_property
    def summary_options(self) -> dict[str, object]:
        """The options of step summary that its result depends on, by flag."""
        digest = hashlib.sha256(self.table.encode()).hexdigest()
        return {"runs": digest, "chosen_by": self.chosen_by}

    @property
    def chosen_by(self) -> str | None:
        """What the best of a mixture's merges is chosen by; None if the results decide."""
        select = self.config.merge.select
        return None if select == "auto" else select

    def name(self, wanted: Wanted) -> str:
        """The path of an artifact in the results folder."""
        return wanted.place.relative_to(self.results).as_posix()

    @cached_property
    def summary(self) -> Wanted:
        sources = {self.name(part): part for part in self.shown}
        place, options = self.results / "summary.csv", self.summary_options
        return Wanted(place, "summary", "summary", self._own, options=options, sources=sources)

    @cached_property
    def report(self) -> Wanted:
        place, sources = self.results / "report.html", {"summary": self.summary}
        return Wanted(place, "report", "report", self._own, sources=sources)

    @cached_property
    def choices(self) -> dict[str, Choice]:
        """The choices of the best merge, one for each tuned mixture, by path of the best one."""
        if self.config.merge.keep != "best":
            return {}
        found: dict[str, Choice] = {}
        for run in self.runs:
            place = run.prefix(run.moe_sft.keys) + "best"
            choice = found.setdefault(place, Choice(self.results / place, run.chosen_by))
            choice.merges |= run.measured_merges()
        return {place: choice for place, choice in found.items() if choice.merges}


def _is_uncleaned(evaluation: Wanted) -> bool:
    """Whether the evaluated model learned from rows that were not cleaned of the problems."""
    return any(
        part.step == "tokens" and evaluation.files["dataset"] not in part.files.values()
        for part in evaluation.chain()
    )


def name_of(place: str) -> str:
    """A path in the results folder without the folders of a variation, such as seed~7/."""
    parts = place.split("/")
    while "~" in parts[0]:
        del parts[0]
    return "/".join(parts)
