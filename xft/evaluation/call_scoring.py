"""Judges solutions of problems whose tests are calls: runs them, and has judged what they returned.

A solution runs in the sandbox (`driver`), which holds no expected value. What it returned is judged
outside (`judges`), after it has ended. It makes all calls, unless one raises, and ends no earlier
than by its limits. So it cannot learn which values are right. The expected values are what the
canonical solutions return.

Functions have the C library, this Python's standard library and `PACKAGES`. They have no /proc,
write nothing, and have only the system calls of `confinement.ALLOWED`. So root needs no other user
for them, nor a right over this machine.
"""

import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from tempfile import TemporaryFile

from xft.common.errors import UserError, counted, listed
from xft.common.progress import say
from xft.evaluation import sandbox as box
from xft.evaluation import scoring
from xft.evaluation.judges import MAX_LINE_BYTES, Judges, Outcome, write_trial
from xft.evaluation.plain_data import dumps, encode
from xft.evaluation.problems import DataSet, Problem
from xft.evaluation.prompts import is_empty
from xft.evaluation.scoring import ERROR, NO_CODE, PASSED, TEST_SETS, TIMED_OUT, TOO_COSTLY
from xft.hub.named_sets import RELEASED

DRIVER = Path(__file__).with_name("driver.py")
BESIDE_DRIVER = ("plain_data.py", "confinement.py", "system_calls.json")
DRIVER_FILES = [DRIVER, *map(DRIVER.with_name, BESIDE_DRIVER)]
# Without their bytecode each program would compile them.
COMPILED = [cache_from_source(file) for file in DRIVER_FILES if file.suffix == ".py"]
PACKAGES = ("numpy", "numpy.libs")  # for solutions to import, with the libraries of the wheel
REQUEST = "request"
USUAL = box.Limits(seconds=120.0, silence=10.0, memory=8 * 2**30)  # correct ones need over 4 GiB
KIND = "ground_truth"
EXPECTED_FILE = "expected.jsonl"
# Canonical solutions are correct, but the machine may be slow or busy.
REFERENCE = replace(USUAL, seconds=1200.0, silence=300.0, output=2**30)
SLOWER = 10  # a late solution may take this many times as long as the canonical one takes then
LONGEST_SPELLING = 16  # equal values differ in their number of bytes by less than this factor
OTHER_HASH_SEED = 1
REPEATABLE = (
    "A solution must return plain data (text, numbers, lists, tuples, sets, dictionaries) and no "
    "NaN, and the same in each run: not in the order of a set, no random numbers and no times"
)


class ProblemTests:
    """The calls of a problem: a list of argument lists for each of `TEST_SETS`, and as JSON.

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
        self.encoded = dumps([[[*map(encode, call)] for call in calls] for calls in self.sets])

    def failed_call(self, outcome: Outcome) -> list | None:
        """The arguments of the first call that is not right, if there is one."""
        calls = [*self.sets, []][outcome.passed_sets]
        return calls[outcome.call] if outcome.call < len(calls) else None


class CallScorer:
    """Judges what the calls of a set's problems return.

    versions: empty, since no toolchain runs.
    memory_bound: how a program's memory is bounded, in words for the result.
    """

    def __init__(self, data_set: DataSet, sandbox: str | None, workers: int):
        self.data_set, self.sandbox, self.workers = data_set, sandbox, workers
        self.versions = {}
        bound = f"{USUAL.memory // 2**30} GiB of address space for each process"
        of_all = ", and seccomp refuses memory outside of it" if sandbox else ""
        self.memory_bound = f"{bound}{of_all}" if sys.platform == "linux" else "none"

    def expected(self) -> dict[str, str]:
        """What the calls of each problem must return, by its task id, as a line of JSON.

        Runs the canonical solutions, and then has each of them judged like a model's, with another
        order of sets. Raises UserError for one that raises or does not end, and for those that do
        not pass. Of EvalPlus's releases, it only tells which do not pass.
        """
        known = self.data_set

        def compute(problem: Problem, stop: scoring.Stop) -> tuple[str, str | None]:
            place, tests = f"line {known.lines[problem.task_id]}", ProblemTests(problem)
            ended = self._run(tests, problem.canonical_program, REFERENCE, stop)
            line = dumps(_returned(tests, ended, f"{known.file}, {place}"))
            limits = replace(REFERENCE, output=_most_bytes(line))
            ended = self._run(tests, problem.canonical_program, limits, stop, OTHER_HASH_SEED)
            fault = _fault(tests, line, _outcome(tests, line, ended, judges, stop))
            return line, fault and f"{place}, {problem.task_id}: {fault}"

        about = {"workers": self.workers, "desc": "ground truth", "unit": "problem"}
        with Judges(confined=self.sandbox is not None) as judges:
            results = scoring.work_on(known.problems, compute, **about)
        if faults := [fault for _, fault in results if fault]:
            solutions = counted(len(faults), "canonical solution")
            message = f"{solutions} of {known.file} would fail as a model's:\n{listed(faults)}"
            if known.sha256 not in {release.sha256 for release in RELEASED.values()}:
                raise UserError(f"{message}\n{REPEATABLE}")
            say(message)
        lines = [line for line, _ in results]
        return {p.task_id: line for p, line in zip(known.problems, lines, strict=True)}

    def score(
        self, expected: dict[str, str], solutions: Sequence[tuple[Problem, str]]
    ) -> list[scoring.Statuses]:
        """The statuses of each solution, in order. expected: as `expected` returns it.

        The limits of one that runs again follow from the canonical solution's time.
        """

        def judge(
            solution: tuple[Problem, str], is_again: bool, stop: scoring.Stop
        ) -> tuple[scoring.Statuses, bool]:
            problem, code = solution
            if is_empty(problem, code):
                return scoring.Statuses(NO_CODE, NO_CODE), False
            tests, line = ProblemTests(problem), expected[problem.task_id]
            limits = self._limits_here(tests, stop) if is_again else USUAL
            ended = self._run(tests, code, replace(limits, output=_most_bytes(line)), stop)
            outcome, is_late = _outcome(tests, line, ended, judges, stop), ended.status == TIMED_OUT
            return _statuses(tests, outcome, TIMED_OUT if is_late else ERROR), is_late

        with Judges(confined=self.sandbox is not None) as judges:
            return scoring.score(solutions, judge, workers=self.workers, unit="solution")

    def _run(
        self, tests: ProblemTests, code: str, limits: box.Limits, stop: scoring.Stop, seed: int = 0
    ) -> box.Ended:
        """Run a program on the calls."""
        name, confined = tests.problem.entry_point, self.sandbox is not None
        asked = caller(code, name, tests.encoded, limits, seed, confined)
        return box.run(asked, self.sandbox, stop)

    def _limits_here(self, tests: ProblemTests, stop: scoring.Stop) -> box.Limits:
        """Limits from the time that the canonical solution takes now."""
        ended = self._run(tests, tests.problem.canonical_program, REFERENCE, stop)
        seconds = max(USUAL.seconds, SLOWER * ended.seconds)
        silence = max(USUAL.silence, SLOWER * ended.silence)
        return replace(USUAL, seconds=seconds, silence=silence)


def _most_bytes(expected: str) -> int:
    """More than the answers of a right program take. expected: a line of the ground truth.

    Where the hash of a large value is expected, an equal one may still be small enough to be sent.
    """
    return LONGEST_SPELLING * len(expected) + MAX_LINE_BYTES * (8 + expected.count('"digest"'))


def _outcome(
    tests: ProblemTests, expected: str, ended: box.Ended, judges: Judges, stop: scoring.Stop
) -> Outcome | None:
    """How far a program is right that has ended. None: it is too costly to judge.

    expected: the problem's line of the ground truth.
    """
    if ended.status == TOO_COSTLY:
        return None
    problem = tests.problem
    with TemporaryFile() as trial:
        name, atol = problem.entry_point, problem.atol
        write_trial(trial, problem.task_id, name, atol, tests.encoded, expected)
        trial.write(ended.output)
        return judges.outcome(trial, stop)


def _statuses(tests: ProblemTests, outcome: Outcome | None, end: str) -> scoring.Statuses:
    """The statuses of a solution.

    end: the status if no message is wrong but some are missing.
    """
    if outcome is None:
        return scoring.Statuses(TOO_COSTLY, TOO_COSTLY)
    statuses = [PASSED] * outcome.passed_sets + [outcome.status or end] * len(TEST_SETS)
    failed = tests.failed_call(outcome)
    return scoring.Statuses(statuses[0], statuses[1], None if failed is None else shown(failed))


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


def _returned(tests: ProblemTests, ended: box.Ended, place: str) -> dict[str, list[dict]]:
    """The driver's messages of the canonical solution, by set.

    place: the problem's, in words. Raises UserError if messages are missing.
    """
    base, plus = tests.sets
    calls, returned = [*base, *plus], []
    fault = "ends its process"
    if ended.status == TIMED_OUT:
        fault = (
            f"does not end within its limits, {REFERENCE.silence:g} s for a call and "
            f"{REFERENCE.seconds:g} s for all calls"
        )
    for message in map(json.loads, ended.output.split(b"\n")[:-1]):
        if "raised" in message:
            fault = f"raises {message['raised']}"
            break
        if "set" not in message:
            returned.append(message)
        elif len(returned) < len(base):
            break
    if len(returned) < len(calls):
        raise UserError(
            f"{place}: the canonical solution of {tests.problem.task_id} {fault}; arguments: "
            f"{shown(calls[len(returned)])}"
        )
    return dict(zip(TEST_SETS, (returned[: len(base)], returned[len(base) :]), strict=True))


def caller(
    code: str, entry_point: str, encoded: str, limits: box.Limits, hash_seed: int, confined: bool
) -> box.Command:
    """What calls a program's function. Its output is the driver's.

    encoded: the argument lists of each of `TEST_SETS`, as the driver gets them.
    hash_seed: the order of a set of texts depends on it.
    """
    program = {"code": code, "entry_point": entry_point, "memory": limits.memory}
    # The interpreter in the sandbox does not search the folders of packages.
    folders = dict.fromkeys(str(path.parent) for path in _packages()) if confined else ()
    program |= {"packages": [*folders], "confined": confined}
    python = [_interpreter(), "-S", "-X", "utf8"] if confined else [sys.executable, "-s"]
    # numpy starts no threads.
    variables = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    mounts, covered = _python() if confined else ((), ())
    mounts = (*mounts, *box.bind(DRIVER_FILES), *box.bind(filter(os.path.exists, COMPILED)))
    view = box.View(mounts, covered, box.CLEAN_ENVIRONMENT | variables, starts_processes=False)
    command = [*python, "-P", "-B", str(DRIVER), REQUEST]
    return box.Command(command, view, limits, REQUEST, f"{dumps(program)}\n{encoded}\n")


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _python() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mounts of Python's libraries, its standard library and `PACKAGES`, and the folders that
    are covered: other packages and this project.
    """
    base = Path(sys.base_prefix)
    system = [Path("/usr/lib"), Path("/usr/lib64")]
    libraries = dict.fromkeys(filter(Path.is_dir, (*system, base / "lib", base / "lib64")))
    compiled = Path(sysconfig.get_config_var("DESTSHARED"))
    standard = list(dict.fromkeys([sysconfig.get_path("stdlib"), str(compiled.parent)]))
    covered = [p for p in (Path(sys.prefix), box.PROJECT) if any(map(p.is_relative_to, libraries))]
    for folder in libraries:
        covered += filter(Path.is_dir, folder.glob("py*" if folder in system else "*"))
    packages = [place for folder in standard for place in Path(folder).glob("*-packages")]
    mounts = (
        *(*box.bind(libraries), *box.links("/lib", "/lib64")),
        *("--ro-bind-try", *["/etc/ld.so.cache"] * 2),
        *(*box.cover(covered), *box.bind([_interpreter(), *standard])),
        *(*box.cover(packages), *box.bind(_packages())),
    )
    return mounts, tuple(str(p) for p in (*covered, *packages) if str(p) not in standard)


def _packages() -> list[Path]:
    """The folders of `PACKAGES` that this environment has."""
    spec = find_spec(PACKAGES[0])
    if spec is None:
        return []
    site = Path(spec.submodule_search_locations[0]).parent
    return [site / name for name in PACKAGES if (site / name).is_dir()]


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
    """Read an artifact's file, as `write` made it."""
    rows = map(json.loads, (folder / EXPECTED_FILE).read_text(encoding="utf-8").splitlines())
    return {row["task_id"]: dumps(row["sets"]) for row in rows}
