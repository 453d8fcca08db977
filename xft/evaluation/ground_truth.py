"""Computes what the calls of each problem must return, once, from the canonical solutions."""

import json
from collections.abc import Iterator
from pathlib import Path

from xft.common.errors import UserError, counted, listed
from xft.common.progress import say
from xft.evaluation.execution import TEST_SETS, Limits, TimedOut, execute
from xft.evaluation.judges import Judges
from xft.evaluation.judging import Outcome
from xft.evaluation.plain_data import dumps
from xft.evaluation.problems import Problem, ProblemSet
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.trials import ProblemTests, run_and_judge
from xft.evaluation.workers import Stop, work_on
from xft.hub.named_sets import RELEASED

KIND = "ground_truth"
EXPECTED_FILE = "expected.jsonl"
# Canonical solutions are correct, but the machine may be slow or busy.
REFERENCE_LIMITS = Limits(loading=120, call=300, calls=1200)
OTHER_HASH_SEED = 1
REPEATABLE = (
    "A solution must return plain data (text, numbers, lists, tuples, sets, dictionaries) and no "
    "NaN, and the same in each run: not in the order of a set, no random numbers and no times"
)


def compute(problem_set: ProblemSet, *, sandbox: Bubblewrap | None, workers: int) -> dict[str, str]:
    """The expected results of each problem by its task id, as a line of JSON.

    Runs the canonical solutions, and then has each of them judged like a model's, with another
    order of sets. Raises UserError for one that raises or does not end, and for those that do not
    pass. Of EvalPlus's releases, it only tells which do not pass.
    """

    def run(problem: Problem, stop: Stop) -> tuple[str, str | None]:
        place = f"line {problem_set.lines[problem.task_id]}"
        tests = ProblemTests(problem)
        line = dumps(_returned(tests, f"{problem_set.file}, {place}", sandbox, stop))
        options = {"sandbox": sandbox, "limits": REFERENCE_LIMITS, "hash_seed": OTHER_HASH_SEED}
        program = problem.canonical_program
        outcome, _ = run_and_judge(tests, program, line, judges=judges, stop=stop, **options)
        fault = _fault(tests, line, outcome)
        return line, fault and f"{place}, {problem.task_id}: {fault}"

    problems = problem_set.problems
    with Judges(confined=sandbox is not None) as judges:
        results = work_on(problems, run, workers=workers, desc="ground truth", unit="problem")
    if faults := [fault for _, fault in results if fault]:
        solutions = counted(len(faults), "canonical solution")
        message = f"{solutions} of {problem_set.file} would fail as a model's:\n{listed(faults)}"
        if problem_set.sha256 not in {known.sha256 for known in RELEASED.values()}:
            raise UserError(f"{message}\n{REPEATABLE}")
        say(message)
    return {problem.task_id: line for problem, (line, _) in zip(problems, results, strict=True)}


def _fault(tests: ProblemTests, line: str, outcome: Outcome | None) -> str | None:
    """Why a canonical solution does not pass; None if it does.

    line: what it returned before.
    """
    if outcome and outcome.passed_sets == len(TEST_SETS):
        return None
    failed = outcome and tests.failed_call(outcome)
    if failed is None:
        return "in a second run it returns too much to be judged, or not all"
    message = json.loads(line)[TEST_SETS[outcome.passed_sets]][outcome.call]
    value = shown(message["value"], 200) if "value" in message else "of more than 64 KiB"
    return f"the value {value} does not pass in a second run; arguments: {shown(failed, 200)}"


def _returned(
    tests: ProblemTests, place: str, sandbox: Bubblewrap | None, stop: Stop
) -> dict[str, list[dict]]:
    """The runner's messages of the canonical solution, by set.

    place: the problem's, in words.
    """
    base, plus = tests.sets
    calls, returned = [*base, *plus], []
    fault = "ends its process"
    try:
        for message in run_canonical(tests, sandbox, stop):
            if "raised" in message:
                fault = f"raises {message['raised']}"
                break
            if "set" not in message:
                returned.append(message)
            elif len(returned) < len(base):
                break
    except TimedOut:
        fault = (
            f"does not end within its limits, {REFERENCE_LIMITS.call:g} s for a call and "
            f"{REFERENCE_LIMITS.calls:g} s for all calls of a set"
        )
    if len(returned) < len(calls):
        raise UserError(
            f"{place}: the canonical solution of {tests.problem.task_id} {fault}; arguments: "
            f"{shown(calls[len(returned)])}"
        )
    return dict(zip(TEST_SETS, (returned[: len(base)], returned[len(base) :]), strict=True))


def run_canonical(tests: ProblemTests, sandbox: Bubblewrap | None, stop: Stop) -> Iterator[dict]:
    """The messages of a problem's canonical solution."""
    problem = tests.problem
    options = {"sandbox": sandbox, "limits": REFERENCE_LIMITS, "stop": stop}
    lines = execute(problem.canonical_program, problem.entry_point, tests.encoded, **options)
    return map(json.loads, lines)


def shown(value, limit: int = 500) -> str:
    """A value as text. Long texts are cut in the middle."""
    text = repr(value)
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def write(folder: Path, truth: dict[str, str]) -> None:
    """Write the file of an artifact."""
    rows = (f'{{"task_id":{dumps(name)},"sets":{line}}}\n' for name, line in truth.items())
    (folder / EXPECTED_FILE).write_text("".join(rows), encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """Read an artifact's file, as `compute` made it."""
    rows = map(json.loads, (folder / EXPECTED_FILE).read_text(encoding="utf-8").splitlines())
    return {row["task_id"]: dumps(row["sets"]) for row in rows}
