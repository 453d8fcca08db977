"""What runs and judges solutions, for each form of problems."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from xft.evaluation import ground_truth, scoring
from xft.evaluation.execution import Limits
from xft.evaluation.forms import calls, programs
from xft.evaluation.problems import Problem, ProblemSet
from xft.evaluation.program_scoring import ProgramScorer
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.scoring import Verdict


@dataclass(frozen=True)
class CallScorer:
    """Judges what the calls of a set's problems return.

    versions: empty, since no toolchain runs.
    """

    problem_set: ProblemSet
    sandbox: Bubblewrap | None
    workers: int
    versions = {}

    @property
    def memory_bound(self) -> str:
        """How a program's memory is bounded, in words for the result."""
        if sys.platform != "linux":
            return "none"
        bound = f"{Limits().memory_bytes // 2**30} GiB of address space for each process"
        return f"{bound}, and seccomp refuses memory outside of it" if self.sandbox else bound

    def expected(self) -> dict[str, str]:
        return ground_truth.compute(self.problem_set, sandbox=self.sandbox, workers=self.workers)

    def score(
        self, expected: dict[str, str], solutions: Sequence[tuple[Problem, str]]
    ) -> list[Verdict]:
        return scoring.score(expected, solutions, sandbox=self.sandbox, workers=self.workers)


def open_scorer(
    problem_set: ProblemSet, sandbox: Bubblewrap | None, workers: int
) -> CallScorer | ProgramScorer:
    """The scorer of a set of problems.

    Raises UserError if this machine lacks what it needs.
    """
    scorers = {calls: CallScorer, programs: ProgramScorer}
    return scorers[problem_set.form](problem_set, sandbox, workers)
