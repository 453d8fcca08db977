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
SYSTEM = (Path("/usr/lib"), Path("/usr/lib64"))  # the system's libraries
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
    """The calls of a problem.

    sets: for each of `TEST_SETS` a list of argument lists.
    encoded: the sets as JSON, as the driver gets them.

    Raises UserError if the task id is one of MBPP's, and the calls are not of its form.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.sets = [problem.base_input, problem.plus_input]
        if problem.is_mbpp:
            self.sets = [_mbpp_calls(problem.task_id, calls) for calls in self.sets]
        self.encoded = dumps([_encode_calls(calls) for calls in self.sets])

    def failed_call(self, outcome: Outcome) -> list | None:
        """The arguments of the first call that is not right, if there is one."""
        if outcome.passed_sets == len(self.sets):
            return None
        calls = self.sets[outcome.passed_sets]
        return calls[outcome.call] if outcome.call < len(calls) else None


def _mbpp_calls(task_id: str, calls: list[list]) -> list[list]:
    """The calls of one of MBPP's problems, with the types that EvalPlus gives their arguments."""
    from evalplus.data.mbpp import mbpp_deserialize_inputs

    try:
        return mbpp_deserialize_inputs(task_id, calls)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"EvalPlus turns some arguments of {task_id} into tuples, sets or numbers, and those "
            f"in base_input and plus_input are of another form: {error}. Give a problem of your "
            "own a task_id that does not begin with Mbpp/"
        ) from None


def _encode_calls(calls: list[list]) -> list[list]:
    return [[encode(argument) for argument in call] for call in calls]


class CallScorer:
    """Judges what the calls of a set's problems return.

    versions: empty, since no toolchain runs.
    memory_bound: how a program's memory is bounded, in words for the result.
    """

    def __init__(self, data_set: DataSet, sandbox: str | None, workers: int):
        self.data_set = data_set
        self.sandbox = sandbox
        self.workers = workers
        self.versions = {}
        self.memory_bound = _memory_bound(confined=sandbox is not None)

    def expected(self) -> dict[str, str]:
        """The values that the calls of each problem must return, by its task id, as JSON on a line.

        Runs the canonical solutions, and then has each of them judged like a model's, with another
        order of sets. Raises UserError for one that raises or does not end, and for those that do
        not pass. Of EvalPlus's releases, it only tells which do not pass.
        """
        problems = self.data_set.problems

        def compute(problem: Problem, stop: scoring.Stop) -> tuple[str, str | None]:
            return self._expected_of(problem, judges, stop)

        with Judges(confined=self.sandbox is not None) as judges:
            results = scoring.work_on(
                problems, compute, workers=self.workers, desc="ground truth", unit="problem"
            )
        faults = [fault for _, fault in results if fault is not None]
        if faults:
            self._report(faults)
        return {problem.task_id: line for problem, (line, _) in zip(problems, results, strict=True)}

    def _expected_of(
        self, problem: Problem, judges: Judges, stop: scoring.Stop
    ) -> tuple[str, str | None]:
        """The values of a problem as in `expected`, and why its canonical solution would fail.

        The latter is None if it passes.
        """
        place = f"line {self.data_set.lines[problem.task_id]}"
        tests = ProblemTests(problem)
        program = problem.canonical_program
        first = self._run(tests, program, REFERENCE, stop)
        line = dumps(_returned(tests, first, f"{self.data_set.file}, {place}"))

        limits = replace(REFERENCE, output=_most_bytes(line))
        second = self._run(tests, program, limits, stop, OTHER_HASH_SEED)
        outcome = _outcome(tests, line, second, judges, stop)
        fault = _fault(tests, line, outcome)
        if fault is None:
            return line, None
        return line, f"{place}, {problem.task_id}: {fault}"

    def _report(self, faults: list[str]) -> None:
        """Raise UserError for canonical solutions that do not pass. Of releases, only tell it."""
        solutions = counted(len(faults), "canonical solution")
        message = f"{solutions} of {self.data_set.file} would fail as a model's:\n{listed(faults)}"
        released = {release.sha256 for release in RELEASED.values()}
        if self.data_set.sha256 not in released:
            raise UserError(f"{message}\n{REPEATABLE}")
        say(message)

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
            tests = ProblemTests(problem)
            line = expected[problem.task_id]
            limits = self._limits_here(tests, stop) if is_again else USUAL
            limits = replace(limits, output=_most_bytes(line))
            ended = self._run(tests, code, limits, stop)
            outcome = _outcome(tests, line, ended, judges, stop)
            is_late = ended.status == TIMED_OUT
            return _statuses(tests, outcome, TIMED_OUT if is_late else ERROR), is_late

        with Judges(confined=self.sandbox is not None) as judges:
            return scoring.score(solutions, judge, workers=self.workers, unit="solution")

    def _run(
        self, tests: ProblemTests, code: str, limits: box.Limits, stop: scoring.Stop, seed: int = 0
    ) -> box.Ended:
        """Run a program on the calls."""
        name = tests.problem.entry_point
        confined = self.sandbox is not None
        command = caller(code, name, tests.encoded, limits, seed, confined)
        return box.run(command, self.sandbox, stop)

    def _limits_here(self, tests: ProblemTests, stop: scoring.Stop) -> box.Limits:
        """Limits from the time that the canonical solution takes now."""
        ended = self._run(tests, tests.problem.canonical_program, REFERENCE, stop)
        seconds = max(USUAL.seconds, SLOWER * ended.seconds)
        silence = max(USUAL.silence, SLOWER * ended.silence)
        return replace(USUAL, seconds=seconds, silence=silence)


def _memory_bound(confined: bool) -> str:
    """How a program's memory is bounded, in words for the result."""
    if sys.platform != "linux":
        return "none"
    bound = f"{USUAL.memory // 2**30} GiB of address space for each process"
    if confined:
        return f"{bound}, and seccomp refuses memory outside of it"
    return bound


def _most_bytes(expected: str) -> int:
    """More than the answers of a right program take. expected: a line of the ground truth.

    Where the hash of a large value is expected, an equal one may still be small enough to be sent.
    """
    hashed = expected.count('"digest"')
    return LONGEST_SPELLING * len(expected) + MAX_LINE_BYTES * (8 + hashed)


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
        write_trial(
            trial, problem.task_id, problem.entry_point, problem.atol, tests.encoded, expected
        )
        trial.write(ended.output)
        return judges.outcome(trial, stop)


def _statuses(tests: ProblemTests, outcome: Outcome | None, end: str) -> scoring.Statuses:
    """The statuses of a solution.

    end: the status if no message is wrong but some are missing.
    """
    if outcome is None:
        return scoring.Statuses(TOO_COSTLY, TOO_COSTLY)
    not_passed = end if outcome.status is None else outcome.status
    base = PASSED if outcome.passed_sets > 0 else not_passed
    plus = PASSED if outcome.passed_sets == len(TEST_SETS) else not_passed
    failed = tests.failed_call(outcome)
    return scoring.Statuses(base, plus, None if failed is None else shortened_repr(failed))


def _fault(tests: ProblemTests, line: str, outcome: Outcome | None) -> str | None:
    """Why a canonical solution does not pass; None if it does.

    line: what it returned before.
    """
    if outcome is not None and outcome.passed_sets == len(TEST_SETS):
        return None
    failed = None if outcome is None else tests.failed_call(outcome)
    if failed is None:
        return "in a second run it returns too much to be judged, or not all"
    returned = json.loads(line)[TEST_SETS[outcome.passed_sets]]
    message = returned[outcome.call]
    value = shortened_repr(message["value"], 200) if "value" in message else "of more than 64 KiB"
    return (
        f"the value {value} does not pass in a second run; arguments: {shortened_repr(failed, 200)}"
    )


def _returned(tests: ProblemTests, ended: box.Ended, place: str) -> dict[str, list[dict]]:
    """The driver's messages of the canonical solution, by set.

    place: the problem's, in words. Raises UserError if messages are missing.
    """
    base, plus = tests.sets
    calls = [*base, *plus]
    returned, exception = _read_output(ended.output, len(base))
    if len(returned) < len(calls):
        reason = _why_incomplete(ended.status, exception)
        arguments = shortened_repr(calls[len(returned)])
        raise UserError(
            f"{place}: the canonical solution of {tests.problem.task_id} {reason}; "
            f"arguments: {arguments}"
        )
    base_name, plus_name = TEST_SETS
    return {base_name: returned[: len(base)], plus_name: returned[len(base) :]}


def _read_output(output: bytes, base_calls: int) -> tuple[list[dict], str | None]:
    """The driver's messages with values, and the name of the exception that ended them, if any.

    base_calls: the number of calls of the first set. If its process ends before all of them, the
    messages of the next set are left out.
    """
    returned = []
    for line in output.split(b"\n")[:-1]:
        message = json.loads(line)
        if "raised" in message:
            return returned, message["raised"]
        if "set" not in message:
            returned.append(message)
        elif len(returned) < base_calls:
            break
    return returned, None


def _why_incomplete(status: str, exception: str | None) -> str:
    """Why messages of the canonical solution are missing, in words that follow its name."""
    if exception is not None:
        return f"raises {exception}"
    if status == TIMED_OUT:
        return (
            f"does not end within its limits, {REFERENCE.silence:g} s for a call and "
            f"{REFERENCE.seconds:g} s for all calls"
        )
    return "ends its process"


def caller(
    code: str, entry_point: str, encoded: str, limits: box.Limits, hash_seed: int, confined: bool
) -> box.Command:
    """The command that calls a program's function. Its output is the driver's.

    encoded: the argument lists of each of `TEST_SETS`, as the driver gets them.
    hash_seed: the order of a set of texts depends on it.
    """
    if confined:
        python = [_interpreter(), "-S", "-X", "utf8"]
        mounts, covered = _python()
        # The interpreter in the sandbox does not search the folders of packages.
        folders = sorted({str(path.parent) for path in _packages()})
    else:
        python = [sys.executable, "-s"]
        mounts, covered = (), ()
        folders = []
    program = {
        "code": code,
        "entry_point": entry_point,
        "memory": limits.memory,
        "packages": folders,
        "confined": confined,
    }
    # numpy starts no threads.
    variables = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    environment = box.CLEAN_ENVIRONMENT | variables
    compiled = [file for file in COMPILED if Path(file).exists()]
    mounts = (*mounts, *box.bind(DRIVER_FILES), *box.bind(compiled))
    view = box.View(mounts, covered, environment, starts_processes=False)
    words = [*python, "-P", "-B", str(DRIVER), REQUEST]
    text = f"{dumps(program)}\n{encoded}\n"
    return box.Command(words, view, limits, REQUEST, text)


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _python() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mounts of Python's libraries, its standard library and `PACKAGES`, and the folders that
    are covered: other packages and this project.
    """
    libraries = _libraries()
    standard = _standard_library()
    covered = _beside_libraries(libraries)
    packages = [place for folder in standard for place in Path(folder).glob("*-packages")]
    mounts = [
        *box.bind(libraries),
        *box.links("/lib", "/lib64"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *box.cover(covered),
        *box.bind([_interpreter(), *standard]),
        *box.cover(packages),
        *box.bind(_packages()),
    ]
    sealed = [str(path) for path in (*covered, *packages) if str(path) not in standard]
    return tuple(mounts), tuple(sealed)


def _libraries() -> list[Path]:
    """The folders of the system's libraries, and of those of this Python."""
    base = Path(sys.base_prefix)
    folders = dict.fromkeys([*SYSTEM, base / "lib", base / "lib64"])
    return [folder for folder in folders if folder.is_dir()]


def _standard_library() -> list[str]:
    """The folders of Python's standard library. Compiled modules may have a folder of their own."""
    compiled = Path(sysconfig.get_config_var("DESTSHARED")).parent
    return list(dict.fromkeys([sysconfig.get_path("stdlib"), str(compiled)]))


def _beside_libraries(libraries: list[Path]) -> list[Path]:
    """The folders in `libraries` that no solution needs: packages, environments, this project."""
    folders = []
    for folder in (Path(sys.prefix), box.PROJECT):
        if any(folder.is_relative_to(library) for library in libraries):
            folders.append(folder)
    for library in libraries:
        pattern = "py*" if library in SYSTEM else "*"
        folders += [path for path in library.glob(pattern) if path.is_dir()]
    return folders


def _packages() -> list[Path]:
    """The folders of `PACKAGES` that this environment has."""
    spec = find_spec(PACKAGES[0])
    if spec is None:
        return []
    site = Path(spec.submodule_search_locations[0]).parent
    return [site / name for name in PACKAGES if (site / name).is_dir()]


def shortened_repr(value, limit: int = 500) -> str:
    """A value as text. Long texts are cut in the middle."""
    text = repr(value)
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... {text[-half:]}"


def write(folder: Path, truth: dict[str, str]) -> None:
    """Write the file of an artifact."""
    rows = (f'{{"task_id":{dumps(name)},"sets":{line}}}\n' for name, line in truth.items())
    (folder / EXPECTED_FILE).write_text("".join(rows), encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """Read an artifact's file, as `write` made it."""
    lines = (folder / EXPECTED_FILE).read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines)
    return {row["task_id"]: dumps(row["sets"]) for row in rows}
