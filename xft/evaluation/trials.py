"""Runs a program on the calls of a problem, and has judged what they returned."""

from tempfile import TemporaryFile

from xft.common.errors import UserError
from xft.evaluation.execution import MAX_LINE_BYTES, TimedOut, encode_inputs, execute
from xft.evaluation.judges import Judges
from xft.evaluation.judging import Outcome, write_trial
from xft.evaluation.problems import Problem
from xft.evaluation.workers import Stop

LONGEST_SPELLING = 16  # equal values differ in their number of bytes by less than this factor


class ProblemTests:
    """The calls of a problem: a list of argument lists for each of `TEST_SETS`.

    Raises UserError if the task id is one of MBPP's, and the calls are not of its form.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.sets = [problem.base_input, problem.plus_input]
        if problem.is_mbpp:
            from evalplus.data.mbpp import mbpp_deserialize_inputs

            name = problem.task_id
            try:
                self.sets = [mbpp_deserialize_inputs(name, calls) for calls in self.sets]
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"EvalPlus turns some arguments of {name} into tuples, sets or numbers, and "
                    f"those in base_input and plus_input are of another form: {error}. Give a "
                    "problem of your own a task_id that does not begin with Mbpp/"
                ) from None
        self.encoded = encode_inputs(self.sets)

    def failed_call(self, outcome: Outcome) -> list | None:
        """The arguments of the first call that is not right, if there is one."""
        calls = [*self.sets, []][outcome.passed_sets]
        return calls[outcome.call] if outcome.call < len(calls) else None


def run_and_judge(
    tests: ProblemTests, code: str, expected: str, *, judges: Judges, stop: Stop, **options
) -> tuple[Outcome | None, bool]:
    """How far a program is right, and whether it was late. None: it is too costly to judge.

    expected: the problem's line of the ground truth. options: of `execute`. The program is judged
    after it has ended, and ends no earlier if it answers too much. So it cannot learn which values
    are right.
    """
    problem, inputs = tests.problem, tests.encoded
    name, late, room = problem.entry_point, False, _most_bytes(expected)
    with TemporaryFile() as trial:
        write_trial(trial, problem.task_id, name, problem.atol, inputs, expected)
        try:
            for line in execute(code, name, inputs, stop=stop, **options):
                room -= len(line)
                if room >= 0:
                    trial.write(line + b"\n")
        except TimedOut:
            late = True
        return (judges.outcome(trial, stop) if room >= 0 else None), late


def _most_bytes(expected: str) -> int:
    """More than the answers of a right program take.

    Where a large value is expected as a digest, an equal one may still be small enough to be sent.
    """
    return LONGEST_SPELLING * len(expected) + MAX_LINE_BYTES * (8 + expected.count('"digest"'))
