"""Verdicts: EvalPlus on a set of solutions, in one sandbox."""

import json
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation.problems import NAMED_SETS, ProblemSet
from workflow_scripts.evaluation.process import Ended, run_child
from workflow_scripts.evaluation.sandbox import CLEAN_ENVIRONMENT, Bubblewrap
from workflow_scripts.progress import progress

DRIVER = Path(__file__).with_name("driver.py")
STATUSES = {"pass", "fail", "timeout"}
MAX_MEMORY_BYTES = 8 * 2**30  # of one test process; correct solutions need more than 4 GiB
MAX_RESULT_BYTES = 2**24
# EvalPlus ends each of a problem's two tests after 60 s and a little.
SECONDS_PER_PROBLEM = 130
SECONDS_FOR_GROUND_TRUTH = 900
BAR_COUNT = re.compile(rb"(\d+)/\d+ \[")


@dataclass(frozen=True)
class Verdict:
    """The statuses of a solution: "pass", "fail" or "timeout".

    base: on the original tests. plus: on these and EvalPlus's own together.
    """

    base: str
    plus: str


def score(
    problem_set: ProblemSet, solutions: Sequence[str], *, sandbox: Bubblewrap | None, workers: int
) -> list[Verdict]:
    """A verdict for the solution of each problem, in order. No sandbox (None): no isolation.

    Raises UserError with the end of EvalPlus's output where it crashes, runs out of time, or gives
    a result that is not whole.
    """
    with (
        tempfile.TemporaryDirectory(prefix="xft-eval-") as folder,
        tempfile.TemporaryFile() as result,
    ):
        folder = Path(folder)
        samples = _write_inputs(folder, problem_set, solutions)
        command = [sys.executable, "-I", "-B", "-u", str(DRIVER), problem_set.form]
        command += [str(samples), str(workers), str(result.fileno())]
        if sandbox:
            command = sandbox.wrap(command, readable=[folder, DRIVER])
        ended = _run(
            command,
            environment=_environment(folder, problem_set.form, sandbox),
            seconds=time_limit(len(solutions), workers),
            result=result,
            total=len(solutions),
        )
        return _read_verdicts(result, ended, problem_set)


def time_limit(problems: int, workers: int) -> int:
    """Seconds after which an evaluation of so many problems is given up."""
    return SECONDS_FOR_GROUND_TRUTH + SECONDS_PER_PROBLEM * math.ceil(problems / workers)


def _write_inputs(folder: Path, problem_set: ProblemSet, solutions: Sequence[str]) -> Path:
    """Write problems, samples and an empty folder to write to; return the file of samples."""
    problems = problem_set.problems
    rows = [
        json.dumps({"task_id": problem.task_id, "solution": solution})
        for problem, solution in zip(problems, solutions, strict=True)
    ]
    samples = folder / "samples.jsonl"
    samples.write_text("\n".join(rows) + "\n", encoding="utf-8")
    problem_rows = "".join(problem.row + "\n" for problem in problems)
    _problems_file(folder).write_text(problem_rows, encoding="utf-8")
    _open_scratch(folder).mkdir()
    return samples


def _problems_file(folder: Path) -> Path:
    return folder / "problems.jsonl"


def _open_scratch(folder: Path) -> Path:
    """Where code writes that runs without a sandbox."""
    return folder / "scratch"


def _environment(folder: Path, form: str, sandbox: Bubblewrap | None) -> dict[str, str]:
    scratch = str(sandbox.scratch if sandbox else _open_scratch(folder))
    override_variable, _ = NAMED_SETS[form]
    return CLEAN_ENVIRONMENT | {
        override_variable: str(_problems_file(folder)),
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "EVALPLUS_MAX_MEMORY_BYTES": str(MAX_MEMORY_BYTES),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _run(command, *, environment, seconds: float, result: IO[bytes], total: int) -> Ended:
    with progress(desc="score", total=total, unit="problem") as bar:

        def advance(output: bytes) -> None:
            counts = [int(count) for count in BAR_COUNT.findall(output)]
            bar.update(max(0, min(max(counts, default=0), total) - bar.n))

        return run_child(
            command,
            environment=environment,
            seconds=seconds,
            inherited=result.fileno(),
            on_output=advance,
        )


def _read_verdicts(result: IO[bytes], ended: Ended, problem_set: ProblemSet) -> list[Verdict]:
    if ended.status != 0:
        how = "ran out of time" if ended.status is None else f"failed (status {ended.status})"
        raise UserError(f"EvalPlus {how}. The end of its output:\n{ended.log.strip()}")
    result.seek(0)
    statuses = _decode(result.read(MAX_RESULT_BYTES))
    expected = {problem.task_id for problem in problem_set.problems}
    if statuses.keys() != expected:
        odd = ", ".join(sorted(statuses.keys() ^ expected)[:5])
        raise UserError(f"EvalPlus's result does not fit the problems: {odd}")
    return [_verdict(problem.task_id, statuses) for problem in problem_set.problems]


def _decode(content: bytes) -> dict:
    try:
        statuses = json.loads(content)
    except ValueError:
        statuses = None
    if not isinstance(statuses, dict):
        raise UserError("EvalPlus's result is not a JSON object")
    return statuses


def _verdict(task_id: str, statuses: dict) -> Verdict:
    match statuses[task_id]:
        case [str(base), str(plus)] if {base, plus} <= STATUSES:
            return Verdict(base, plus if base == "pass" else base)
    raise UserError(f"EvalPlus's result for {task_id} is {statuses[task_id]!r}")
