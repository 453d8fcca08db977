"""Computes what the calls of each problem must return, once, from the canonical solutions."""

import json
from collections.abc import Iterator
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.execution import TEST_SETS, Limits, TimedOut, encode_inputs, execute
from xft.evaluation.plain_data import dumps
from xft.evaluation.problems import Problem, ProblemSet
from xft.evaluation.sandbox import Bubblewrap
from xft.evaluation.workers import Stop, work_on

KIND = "ground_truth"
EXPECTED_FILE = "expected.jsonl"
# Canonical solutions are correct, but the machine may be slow or busy.
REFERENCE_LIMITS = Limits(loading=120, call=300, calls=1200)


class ProblemTests:
    """The calls of a problem: a list of argument lists for each of `TEST_SETS`.

    Raises UserError if the task id is one of MBPP's, and the calls are not of its form.
    """

    def __init__(self, problem: Problem, form: str):
        self.problem = problem
        self.form = form
        self.sets = [problem.base_input, problem.plus_input]
        if form == "mbpp":
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


def compute(problem_set: ProblemSet, *, sandbox: Bubblewrap | None, workers: int) -> dict[str, str]:
    """The expected results of each problem by its task id, as a line of JSON.

    Runs the canonical solutions. Raises UserError for one that raises or does not end.
    """

    def line(problem: Problem, stop: Stop) -> str:
        return dumps(_returned(ProblemTests(problem, problem_set.form), sandbox, stop))

    problems = problem_set.problems
    lines = work_on(problems, line, workers=workers, desc="ground truth", unit="problem")
    return {problem.task_id: line for problem, line in zip(problems, lines, strict=True)}


def _returned(tests: ProblemTests, sandbox: Bubblewrap | None, stop: Stop) -> dict[str, list[dict]]:
    """The runner's messages of the canonical solution, by set."""
    base, plus = tests.sets
    returned: list[dict] = []
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
    calls = [*base, *plus]
    if len(returned) < len(calls):
        arguments = shown(calls[len(returned)])
        raise UserError(
            f"the canonical solution of {tests.problem.task_id} {fault}; arguments: {arguments}"
        )
    return dict(zip(TEST_SETS, (returned[: len(base)], returned[len(base) :]), strict=True))


def run_canonical(tests: ProblemTests, sandbox: Bubblewrap | None, stop: Stop) -> Iterator[dict]:
    """The messages of a problem's canonical solution."""
    lines = execute(
        tests.problem.canonical_program,
        tests.problem.entry_point,
        tests.encoded,
        sandbox=sandbox,
        limits=REFERENCE_LIMITS,
        stop=stop,
    )
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


def read(folder: Path, problem_set: ProblemSet) -> dict[str, str]:
    """Read an artifact's file. Raises UserError if a problem of the set is not in it."""
    lines = {}
    for line in (folder / EXPECTED_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        lines[row["task_id"]] = dumps(row["sets"])
    missing = [p.task_id for p in problem_set.problems if p.task_id not in lines]
    if missing:
        raise UserError(
            f"{folder} has no expected results for {', '.join(missing[:5])}. Make the ground truth "
            "again for these problems"
        )
    return lines
