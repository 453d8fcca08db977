"""What is said of a solution."""

from dataclasses import dataclass

PASSED, FAILED, ERROR, REFUSED = "passed", "failed", "error", "refused by the sandbox"
TIMED_OUT, NO_CODE = "timed out", "empty"
TOO_COSTLY, COMPILE_ERROR = "too costly to judge", "compile error"
TEST_SETS = ("base", "plus")  # a solution is judged on both, in this order


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
