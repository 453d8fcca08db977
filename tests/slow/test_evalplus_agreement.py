"""Our verdicts beside EvalPlus's own, on right solutions and on wrong ones.

EvalPlus judges in the process that runs the code; its verdicts come from `untrusted_check`, with
limits that a busy machine does not reach, on its own expected outputs.
"""

import os
import random
import re
import sys

import pytest

from xft.evaluation.call_scoring import CallScorer, ProblemTests
from xft.evaluation.forms import load_problems
from xft.evaluation.result import FAILED_BY_EVALPLUS
from xft.evaluation.scorers import find_bubblewrap
from xft.evaluation.scoring import TEST_SETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
FILES = {"humaneval": "HumanEvalPlus.jsonl.gz", "mbpp": "MbppPlus.jsonl.gz"}
# Newton's method, which since Python 3.12, whose `sum` rounds once, misses its tolerance.
FAILS_ITSELF = {"HumanEval/32"} if sys.version_info >= (3, 12) else set()
# Their outputs fill gigabytes in EvalPlus's process.
TOO_LARGE = {"Mbpp/255", "Mbpp/599", "HumanEval/15", "HumanEval/130"}
WRONG = 160  # problems with a wrong solution each, in a data set
SWAPS = {"+": "-", "-": "+", "*": "+", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!="}
SWAPS |= {" and ": " or ", " or ": " and "}
PLACE = re.compile("|".join(map(re.escape, sorted(SWAPS, key=len, reverse=True))) + r"|\d+")


def mutant(code: str, chooser: random.Random) -> str:
    """A program with another operator or number in one place. If it has none: half its lines."""
    if places := list(PLACE.finditer(code)):
        place = chooser.choice(places)
        other = SWAPS.get(place[0]) or str(int(place[0]) + 1)
        return code[: place.start()] + other + code[place.end() :]
    lines = code.splitlines()
    return "\n".join(lines[: len(lines) // 2])


def evalplus_verdict(tests: ProblemTests, form: str, code: str) -> list[str]:
    """EvalPlus's statuses on both sets, plus only where base passes."""
    from evalplus.eval import untrusted_check
    from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
    from evalplus.gen.util import trusted_exec

    problem, name, statuses = tests.problem, tests.problem.entry_point, []
    not_none = form == "mbpp" and name in MBPP_OUTPUT_NOT_NONE_TASKS
    for calls in tests.sets:
        expected = trusted_exec(problem.canonical_program, calls, name, output_not_none=not_none)
        arguments = form, code, calls, name, expected, problem.atol, [1.0] * len(calls)
        status, _ = untrusted_check(*arguments, fast_check=True)
        statuses.append(status)
        if status != "pass":
            return [statuses[0], status]
    return statuses


@pytest.mark.parametrize("name", FILES)
def test_verdicts_are_evalplus_s(name, shared, monkeypatch):
    monkeypatch.setenv("EVALPLUS_MAX_MEMORY_BYTES", str(8 * 2**30))
    chooser = random.Random(0)
    data_set = load_problems(str(shared / "data" / FILES[name]))
    scorer = CallScorer(data_set, find_bubblewrap(), len(os.sched_getaffinity(0)))
    truth = scorer.expected()
    right = [(p, p.canonical_program) for p in data_set.problems]
    passed = scorer.score(truth, right)
    failed = {p.task_id for (p, _), v in zip(right, passed, strict=True) if v.plus != "passed"}
    assert failed == (FAILS_ITSELF if name == "humaneval" else set())

    small = [(problem, code) for problem, code in right if problem.task_id not in TOO_LARGE]
    wrong = [(problem, mutant(code, chooser)) for problem, code in chooser.sample(small, WRONG)]
    ours = scorer.score(truth, wrong)
    differing = []
    for (problem, code), verdict in zip(wrong, ours, strict=True):
        if problem.task_id == FAILED_BY_EVALPLUS:
            continue
        form = "mbpp" if problem.is_mbpp else "humaneval"
        theirs = evalplus_verdict(ProblemTests(problem), form, code)
        mine = [getattr(verdict, tests) for tests in TEST_SETS]
        if [s == "pass" for s in theirs] != [s == "passed" for s in mine]:
            differing.append((problem.task_id, theirs, verdict, code))
    assert not differing
