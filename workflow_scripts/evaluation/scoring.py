"""Runs each solution in its own sandbox, and judges it outside of the sandbox."""

import errno
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from workflow_scripts.common.progress import progress
from workflow_scripts.evaluation.execution import (
    TEST_SETS,
    Garbled,
    Limits,
    TimedOut,
    execute,
    parse,
)
from workflow_scripts.evaluation.ground_truth import (
    GroundTruth,
    ProblemTests,
    run_canonical,
    shown,
)
from workflow_scripts.evaluation.judging import Returned, read_returned
from workflow_scripts.evaluation.problems import Problem, ProblemSet
from workflow_scripts.evaluation.sandbox import Bubblewrap
from workflow_scripts.evaluation.workers import Stop, work_on

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"
REFUSED, NO_CODE = "refused by the sandbox", "no code"
# Exceptions and error numbers of code that tries something that the sandbox forbids.
REFUSALS = {"PermissionError", "ConnectionRefusedError", "gaierror"}
REFUSAL_NUMBERS = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH}
MAX_BYTES_IN_MEMORY = 2**20  # of a program's messages; more go to a file
SLOWER = 10  # a solution may take this many times as long as the canonical one


@dataclass(frozen=True)
class Verdict:
    """The statuses of a solution: PASSED, FAILED, TIMED_OUT, REFUSED or NO_CODE.

    base: on the original tests. plus: on the original tests and EvalPlus's tests together.
    failed_call: the arguments of the first call that failed, if there is one.
    """

    base: str
    plus: str
    failed_call: str | None = None


def score(
    problem_set: ProblemSet,
    truth: GroundTruth,
    solutions: Sequence[tuple[Problem, str | None]],
    *,
    sandbox: Bubblewrap | None,
    workers: int,
) -> list[Verdict]:
    """A verdict for each solution, in order. None means a solution without code.

    sandbox: None means no isolation. A solution that takes too long is tried again at the end, with
    no other solution at the same time. Its limits then follow from the canonical solution's time.
    """

    def verdict(solution: tuple[Problem, str | None], stop: Stop) -> Verdict:
        problem, code = solution
        if code is None:
            return Verdict(NO_CODE, NO_CODE)
        tests = ProblemTests(problem, problem_set.form)
        return _verdict(tests, truth, code, sandbox, Limits(), stop)

    verdicts = work_on(
        solutions,
        verdict,
        lambda solution: solution[0].task_id,
        workers=workers,
        desc="score",
        unit="solution",
    )
    late = [i for i, found in enumerate(verdicts) if TIMED_OUT in (found.base, found.plus)]
    for i in progress(late, desc="score again, alone", unit="solution"):
        problem, code = solutions[i]
        tests = ProblemTests(problem, problem_set.form)
        verdicts[i] = _verdict(tests, truth, code, sandbox, _limits_here(tests, sandbox))
    return verdicts


def _limits_here(tests: ProblemTests, sandbox: Bubblewrap | None) -> Limits:
    """Limits from the time that the canonical solution takes now."""
    start = last = time.monotonic()
    longest = 0.0
    for _ in run_canonical(tests, sandbox):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    usual = Limits()
    return Limits(
        loading=max(usual.loading, SLOWER * longest),
        call=max(usual.call, SLOWER * longest),
        calls=max(usual.calls, SLOWER * (last - start)),
    )


def _verdict(
    tests: ProblemTests,
    truth: GroundTruth,
    code: str,
    sandbox: Bubblewrap | None,
    limits: Limits,
    stop: Stop | None = None,
) -> Verdict:
    """Run a program on all calls, and judge it after it has ended.

    While it runs, it can thus not learn which values are right.
    """
    name, inputs = tests.problem.entry_point, tests.encoded
    end = FAILED
    with SpooledTemporaryFile(MAX_BYTES_IN_MEMORY) as told:
        try:
            for line in execute(code, name, inputs, sandbox=sandbox, limits=limits, stop=stop):
                told.write(line + b"\n")
        except TimedOut:
            end = TIMED_OUT
        except Garbled:
            pass
        told.seek(0)
        return _judge(Trial(tests, truth.expected(tests.problem)), told, end)


def _judge(trial: "Trial", told: Iterable[bytes], end: str) -> Verdict:
    """Judge a program's messages. end: the status if no message is wrong but some are missing."""
    with suppress(Garbled):
        for line in told:
            if not trial.take(parse(line)):
                return trial.verdict()
        trial.status = end
    return trial.verdict()


class Trial:
    """Takes the runner's messages about a program, and gives the verdict.

    status: the status of the current set, unless all its calls are right.
    """

    def __init__(self, tests: ProblemTests, expected: list[list[Returned]]):
        self.tests = tests
        self.expected = expected
        self.passed_sets = 0
        self.status = FAILED
        self._begin_set()

    def _begin_set(self) -> None:
        self.call = 0
        self.judge = self.tests.judge()

    @property
    def calls(self) -> list:
        """The calls of the current set."""
        return self.tests.sets[self.passed_sets] if self.passed_sets < len(TEST_SETS) else []

    def take(self, message: dict) -> bool:
        """Whether the program can still pass more calls after this message.

        The message may hold anything.
        """
        try:
            return self._take(message)
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            return False

    def _take(self, message: dict) -> bool:
        if "raised" in message:
            refused = message["raised"] in REFUSALS or message.get("errno") in REFUSAL_NUMBERS
            self.status = REFUSED if refused else FAILED
            return False
        if "set" in message:
            return self._end_set()
        return self._judge(read_returned(message))

    def _end_set(self) -> bool:
        if self.call < len(self.calls):
            return False
        self.passed_sets += 1
        self._begin_set()
        return self.passed_sets < len(TEST_SETS)

    def _judge(self, returned: Returned) -> bool:
        if self.call >= len(self.calls):
            return False
        expected = self.expected[self.passed_sets][self.call]
        if not self.judge.accepts(self.calls[self.call], returned, expected):
            return False
        self.call += 1
        return True

    def verdict(self) -> Verdict:
        statuses = [PASSED] * self.passed_sets + [self.status] * len(TEST_SETS)
        failed_call = shown(self.calls[self.call]) if self.call < len(self.calls) else None
        return Verdict(statuses[0], statuses[1], failed_call)
