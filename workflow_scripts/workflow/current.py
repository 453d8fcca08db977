"""Decides for a run of the workflow which artifacts it makes again, and reports why."""

import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from workflow_scripts.evaluation.result import best_result
from workflow_scripts.hub.named_sets import NAMED_SETS
from workflow_scripts.workflow.markers import set_marker
from workflow_scripts.workflow.places import FILES, FOLDERS, check_free, check_inputs
from workflow_scripts.workflow.state import Inspector, State, Verdict
from workflow_scripts.workflow.wanted import Wanted, Wants


class Current:
    """The artifacts that a config wants, compared with the existing ones."""

    def __init__(self, wants: Wants):
        self.wants = wants
        self.inspector = Inspector()
        self.forced: Collection[str] = ()
        self.begun = False

    def check(self, config_files: Iterable[str], shares: bool = False) -> None:
        """Raise UserError if the run would overwrite an input, or any other file of the user.

        shares: whether artifacts come from a shared folder.
        """
        results = self.wants.results
        places = [wanted.place for wanted in self._wanted()]
        places += [results / name for name in (*FILES, *FOLDERS)]
        check_inputs(places, [*self._inputs(), *(("this file", Path(f)) for f in config_files)])
        verdicts = {wanted: self.verdict(wanted) for wanted in self._wanted()}
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
        if accept_code:
            for wanted in self._wanted():
                self.inspector.accept_code(wanted)
        self._tell()

    def _tell(self) -> None:
        outdated = {
            wanted.place: verdict.differences
            for wanted in self._wanted()
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
        """The verdict on an artifact. `best` also depends on the evaluations."""
        verdict = self.inspector.inspect(wanted)
        if wanted is not self.wants.requested.get("best") or verdict.state is not State.FITS:
            return verdict
        if self._are_evaluated():
            return verdict
        return Verdict(State.OUTDATED, ("evaluations are made again",), verdict.manifest)

    def best(self) -> Wanted:
        """The merge of the lambda that solved most problems; of any while that is not known."""
        lambdas = self.wants.config.merge.lambdas
        results = [evaluation.place for evaluation in self.wants.dense_evaluations()]
        chosen = lambdas[best_result(results)] if self._are_evaluated() else lambdas[0]
        return self.wants.merged("best", chosen, learned=True)

    def _are_evaluated(self) -> bool:
        evaluations = self.wants.dense_evaluations()
        return all(self.inspector.inspect(e).state is State.FITS for e in evaluations)

    def _wanted(self) -> list[Wanted]:
        """All that the config wants, sources first."""
        best = [self.best()] if self.wants.config.merge.keep == "best" else []
        return list(dict.fromkeys(part for w in [self.wants.summary, *best] for part in w.chain()))

    def _inputs(self) -> list[tuple[str, Path]]:
        """The files and folders that the config names, by key."""
        return [
            (key, Path(name)) for key, name in self.wants.config.paths() if _is_on_disk(key, name)
        ]

    def _is_forced(self, wanted: Wanted) -> bool:
        names = {wanted.rule, str(wanted.place), f"{wanted.place}.manifest.json"}
        return not names.isdisjoint(self.forced)


def _is_on_disk(key: str, name: str) -> bool:
    """Whether a name in a config means an existing file or folder."""
    if key == "evaluation.datasets" and name in NAMED_SETS:
        return False
    path = Path(name)
    return path.is_file() or (path.is_dir() and key == "base.model")
