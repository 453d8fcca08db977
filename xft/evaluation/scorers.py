"""What runs and judges solutions, for each form of problems."""

from xft.evaluation.call_scoring import CallScorer
from xft.evaluation.forms import CALLS, PROGRAMS
from xft.evaluation.problems import ProblemSet
from xft.evaluation.program_scoring import ProgramScorer
from xft.evaluation.sandbox import Bubblewrap


def open_scorer(
    problem_set: ProblemSet, sandbox: Bubblewrap | None, workers: int
) -> CallScorer | ProgramScorer:
    """The scorer of a set of problems. Both run solutions in the same sandbox.

    Raises UserError if this machine lacks what it needs.
    """
    scorers = {CALLS: CallScorer, PROGRAMS: ProgramScorer}
    return scorers[problem_set.form](problem_set, sandbox, workers)
