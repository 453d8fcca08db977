"""Finds out which jobs the next run has, and why. Nothing on the disk is changed."""

from collections import defaultdict, deque

from xft.artifacts.manifest import manifest_path
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.state import State
from xft.dag.wanted import Wanted
from xft.hub.named_sets import NAMED_SETS

MISSING = "missing"
MOST_DIFFERENCES = 2  # named in a reason


class NextRun:
    """What a run of the workflow would do now.

    wanted: all artifacts of the configuration, sources first. jobs: those of them that the run
    makes, each with the reason.
    """

    def __init__(self, current: Current):
        self.current = current
        inputs = {part: _inputs(part, current.experiment) for part in current.wanted()}
        named = {source: [] for sources in inputs.values() for source in sources}
        self._inputs = {part: [] for part in named if part not in inputs} | inputs
        self.wanted = list(self._inputs)
        reasons = self._reasons()
        self.jobs = {part: reasons[part] for part in self.wanted if part in reasons}

    def _reasons(self) -> dict[Wanted, str]:
        """The reasons of all jobs, as Snakemake finds them.

        It begins with what is outdated and with missing targets. A job also runs if another job
        needs its output and the output is missing, or if its own input is made again.
        """
        users = defaultdict(list)
        for part, sources in self._inputs.items():
            for source in sources:
                users[source].append(part)
        own = {part: self._own_reason(part) for part in self.wanted}
        reasons = {part: reason for part, reason in own.items() if reason}
        queue = deque(reasons)
        while queue:
            part = queue.popleft()
            others = [source for source in self._inputs[part] if not _exists(source)]
            if not (self.current.fits(part) and _exists(part)):
                others += users[part]
            for other in others:
                if other not in reasons:
                    reasons[other] = f"{part.place} is made again" if _exists(other) else MISSING
                    queue.append(other)
        return reasons

    def _own_reason(self, part: Wanted) -> str | None:
        verdict = self.current.verdict(part)
        if verdict.state is State.OUTDATED:
            more = len(verdict.differences) - MOST_DIFFERENCES
            named = "; ".join(verdict.differences[:MOST_DIFFERENCES])
            return f"{named}; and {more} more" if more > 0 else named
        is_target = part.rule in ("report", "best")
        return MISSING if is_target and not _exists(part) else None


def _exists(part: Wanted) -> bool:
    return part.place.exists() and manifest_path(part.place).exists()


def _inputs(part: Wanted, experiment: Experiment) -> list[Wanted]:
    """All artifacts that the job of an artifact reads: its sources, and what its rule adds."""
    found = list(part.sources.values())
    if part.rule == "best":
        choice = experiment.choices[experiment.name(part)]
        found += [*choice.measured, *(merge.sources["weighted"] for merge in choice.merges)]
    labels = {
        "tokens": part.run.forbidden_sets,
        "ground_truth": [part.place.name],
        "eval": [part.place.stem],
    }
    named = [label for label in labels.get(part.step, ()) if label in NAMED_SETS]
    return [*found, *map(experiment.fetched_problems, named)]
