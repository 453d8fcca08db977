"""Runs each solution in its own sandbox, and has it judged outside of the sandbox."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from xft.evaluation.execution import TEST_SETS, Limits
from xft.evaluation.ground_truth import run_canonical, shown
from xft.evaluation.judges import Judges
from xft.evaluation.judging import ERROR, PASSED, Outcome
from xft.evaluation.problems import Problem
from xft.evaluation.prompts import FENCE
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.trials import ProblemTests, run_and_judge
from xft.evaluation.workers import Stop, work_on

TIMED_OUT, NO_CODE = "timed out", "empty"
TOO_COSTLY, COMPILE_ERROR = "too costly to judge", "compile error"
SLOWER = 10  # a solution may take this many times as long as the canonical one


@dataclass(frozen=True)
class Verdict:
    """The statuses of a solution: PASSED, FAILED, TIMED_OUT, ERROR, REFUSED, TOO_COSTLY,
    COMPILE_ERROR or NO_CODE.

    base: on the original tests.
    plus: on the original tests and EvalPlus's tests together.
    failed_call: the arguments of the first call that failed, if there is one.
    """

    base: str
    plus: str
    failed_call: str | None = None


def score(
    truth: dict[str, str],
    solutions: Sequence[tuple[Problem, str]],
    *,
    sandbox: Bubblewrap | None,
    workers: int,
) -> list[Verdict]:
    """A verdict for each solution, in order.

    sandbox: None means no isolation. A solution that takes too long is tried again at the end, with
    no other solution at the same time, whatever it answered: it must not learn from this which
    answers are right. Its limits then follow from the canonical solution's time.
    """
    late = set()

    def verdict(number: int, stop: Stop) -> Verdict:
        problem, code = solutions[number]
        if is_empty(problem, code):
            return Verdict(NO_CODE, NO_CODE)
        tests = ProblemTests(problem)
        limits = _limits_here(tests, sandbox, stop) if number in late else Limits()
        expected = truth[problem.task_id]
        outcome, timed_out = run_and_judge(
            tests, code, expected, sandbox=sandbox, judges=judges, limits=limits, stop=stop
        )
        if timed_out:
            late.add(number)
        return _verdict(tests, outcome, TIMED_OUT if timed_out else ERROR)

    numbers = range(len(solutions))
    with Judges(confined=sandbox is not None) as judges:
        verdicts = work_on(numbers, verdict, workers=workers, desc="score", unit="solution")
        again = sorted(late)
        judged = work_on(again, verdict, workers=1, desc="score again, alone", unit="solution")
    final = dict(zip(again, judged, strict=True))
    return [final.get(number, verdict) for number, verdict in enumerate(verdicts)]


def is_empty(problem, code: str) -> bool:
    """Whether the model added no code: only blanks and code fences."""
    added = code.strip().removeprefix(problem.prompt.strip())
    return not re.sub(rf"{FENCE}\w*", "", added).strip()


def _limits_here(tests: ProblemTests, sandbox: Bubblewrap | None, stop: Stop) -> Limits:
    """Limits from the time that the canonical solution takes now."""
    start = last = time.monotonic()
    longest = 0.0
    for _ in run_canonical(tests, sandbox, stop):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    usual = Limits()
    return Limits(
        loading=max(usual.loading, SLOWER * longest),
        call=max(usual.call, SLOWER * longest),
        calls=max(usual.calls, SLOWER * (last - start)),
    )


def _verdict(tests: ProblemTests, outcome: Outcome | None, end: str) -> Verdict:
    """The verdict.

    end: the status if no message is wrong but some are missing.
    """
    if outcome is None:
        return Verdict(TOO_COSTLY, TOO_COSTLY)
    statuses = [PASSED] * outcome.passed_sets + [outcome.status or end] * len(TEST_SETS)
    failed = tests.failed_call(outcome)
    return Verdict(statuses[0], statuses[1], None if failed is None else shown(failed))
