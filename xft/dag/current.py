"""Decides for a run of the workflow which artifacts it makes again, and reports why."""

import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from xft.dag.experiment import Choice, Experiment
from xft.dag.markers import set_marker
from xft.dag.places import FILES, FOLDERS, check_free, check_inputs
from xft.dag.state import Inspector, State, Verdict
from xft.dag.wanted import Wanted
from xft.hub.named_sets import NAMED_SETS
from xft.reporting.choice import best_merge


class Current:
    """The artifacts that a config wants, compared with the existing ones.

    inspector: compares them until the run begins.
    """

    def __init__(self, experiment: Experiment, inspector: Inspector | None = None):
        self.experiment = experiment
        self.inspector = inspector or Inspector()
        self.forced: Collection[str] = ()
        self.begun = False
        self._best: dict[str, Wanted] = {}

    def check(self, config_files: Iterable[str], shares: bool = False) -> None:
        """Raise UserError if the run would overwrite an input, or any other file of the user.

        shares: whether artifacts come from a shared folder.
        """
        results = self.experiment.results
        places = [wanted.place for wanted in self.wanted()]
        places += [results / name for name in (*FILES, *FOLDERS)]
        check_inputs(places, [*self.inputs(), *(("this file", Path(f)) for f in config_files)])
        verdicts = {wanted: self.verdict(wanted) for wanted in self.wanted()}
        check_free(verdicts, results, shares)

    def begin(self, forced: Collection[str], accept_code: bool) -> None:
        """On the first call, print which artifacts are made again and why.

        forced: the rules and files that are made again in any case. accept_code: record the current
        code in the manifests of all artifacts for which only the code has changed.
        """
        if self.begun:
            return
        self.begun, self.forced = True, forced
        self.inspector = Inspector(self._is_forced)
        self._best = {}
        if accept_code:
            for wanted in self.wanted():
                self.inspector.accept_code(wanted)
        self._tell()

    def _tell(self) -> None:
        outdated = {
            wanted.place: verdict.differences
            for wanted in self.wanted()
            if (verdict := self.verdict(wanted)).state is State.OUTDATED
        }
        if outdated:
            lines = [f"  {place}: {'; '.join(why)}" for place, why in outdated.items()]
            print("Made again:", *lines, sep="\n", file=sys.stderr)

    def marker(self, wanted: Wanted) -> Path:
        """The marker of an artifact, with a time that follows from its verdict."""
        return set_marker(wanted, self.verdict(wanted))

    def fits(self, wanted: Wanted) -> bool:
        """Whether the artifact exists as it is wanted."""
        return self.verdict(wanted).state is State.FITS

    def verdict(self, wanted: Wanted) -> Verdict:
        """The verdict on an artifact. That on a best merge depends on the choice too."""
        verdict = self.inspector.inspect(wanted)
        if wanted.rule != "best" or verdict.state is not State.FITS:
            return verdict
        choice = self.experiment.choices[str(wanted.place.relative_to(self.experiment.results))]
        if self._is_measured(choice):
            return verdict
        return Verdict(State.OUTDATED, ("evaluations are made again",), verdict.manifest)

    def best(self, place: str) -> Wanted:
        """The best merge of those at a path; the first one while the best is not known."""
        choice = self.experiment.choices[place]
        if place not in self._best:
            files = [result.place for result in choice.measured]
            is_known = self._is_measured(choice)
            self._best[place] = choice.best(best_merge(files, choice.by) if is_known else 0)
        return self._best[place]

    def wanted(self) -> list[Wanted]:
        """All that the config wants, sources first."""
        best = [self.best(place) for place in self.experiment.choices]
        parts = (part for wanted in best for part in wanted.chain())
        return list(dict.fromkeys([*self.experiment.report.chain(), *parts]))

    def _is_measured(self, choice: Choice) -> bool:
        return all(self.inspector.inspect(r).state is State.FITS for r in choice.measured)

    def inputs(self) -> list[tuple[str, Path]]:
        """The files and folders that the config names, by key."""
        named = [pair for run in self.experiment.runs for pair in run.config.paths()]
        return [(key, Path(name)) for key, name in dict.fromkeys(named) if _is_on_disk(key, name)]

    def _is_forced(self, wanted: Wanted) -> bool:
        names = {wanted.rule, str(wanted.place), f"{wanted.place}.manifest.json"}
        return not names.isdisjoint(self.forced)


def _is_on_disk(key: str, name: str) -> bool:
    """Whether a name in a config means an existing file or folder."""
    if name in NAMED_SETS and key in ("evaluation.datasets", "data.decontaminate_against"):
        return False
    path = Path(name)
    return path.is_file() or (path.is_dir() and key == "base.model")
