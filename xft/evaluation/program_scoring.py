"""Judges solutions of problems whose tests are a program: it passes if it ends with status 0.

It is compiled and run alone in the sandbox, within a time for both. It must print a word where its
tests end: if it does not, it has stopped before.
"""

import atexit
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xft.common.errors import UserError, counted, listed
from xft.common.progress import say
from xft.evaluation import languages, scoring
from xft.evaluation import sandbox as box
from xft.evaluation.languages import LANGUAGES, Language, Parts, find_toolchains
from xft.evaluation.problems import DataSet, ProgramProblem
from xft.evaluation.prompts import is_empty
from xft.evaluation.sandbox import Ended, run
from xft.evaluation.scoring import COMPILE_ERROR, FAILED, NO_CODE, PASSED, TIMED_OUT

SECONDS = 15.0  # to compile and run a program
PROBE_SECONDS = 60.0
MOST_TEXT = 200  # of a program's output, in a message
STOPPED = b"it ended with status 0 before the end of its tests, or ended itself there"
# sh is dash or bash, where the number of processes is -p or -u. A limit may be lower already.
SCRIPT = """
{{ ulimit -c 0; ulimit -n 512; ulimit -t {processor_seconds}; ulimit -d {kilobytes}
ulimit -u 1024 || ulimit -p 1024; }} 2>/dev/null
echo ready >&2
exec </dev/null
{compile}exec {run}
"""
SYSTEM = ("/bin", "/lib", "/lib64")
SETTINGS = ("alternatives", "ld.so.cache")  # below /etc, what programs of /usr read
START_OF_MAIN = re.compile(r"\bmain\s*\([^()]*\)[^{};]*\{")
GO_PACKAGE = re.compile(r"^package\s+\w+", re.MULTILINE)
LUA_EXIT = re.compile(r"\bos\.exit\((.+)\)\s*\Z")  # as MultiPL-E's tests end


@dataclass(frozen=True)
class Toolchain:
    """A language on this machine.

    parts: its programs, and what they load.
    cache: compiled packages of Go.
    version: as it says itself.
    """

    language: Language
    parts: Parts
    cache: Path | None
    version: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """All variables that a program has."""
        folders = [str(file.parent) for file in self.parts.executables]
        jars = [str(jar) for jar in self.parts.jars]
        variables = {
            "PATH": ":".join([*folders, box.CLEAN_ENVIRONMENT["PATH"]]),
            "CLASSPATH": ":".join([*jars, "."]),
        }
        if self.cache:
            variables["GOCACHE"] = str(self.cache)
        return box.CLEAN_ENVIRONMENT | variables

    @property
    def folders(self) -> list[Path]:
        """The files and folders that the programs need beside the system.

        Of the user's own folders, these are only the executables.
        """
        needed = [*self.parts.jars]
        if self.cache:
            needed.append(self.cache)
        for file in self.parts.executables:
            folder = file.parent.parent if file.parent.name == "bin" else file.parent
            is_wide = Path.home().is_relative_to(folder) or folder == Path.home() / ".local"
            needed.append(file if is_wide else folder)
        return [path for path in dict.fromkeys(needed) if not path.is_relative_to("/usr")]

    def command(
        self, compile: str, run: str, seconds: float, file: str = "nothing", text: str = ""
    ) -> box.Command:
        """The command that runs two commands in turn.

        compile: "" if nothing is compiled.
        seconds: for both.
        file, text: the name and the text of the program's file.
        """
        limits = box.Limits(seconds)
        compile_line = f"{compile} >&2 || exit {box.NOT_COMPILED}\n" if compile else ""
        script = SCRIPT.format(
            processor_seconds=2 * int(seconds),
            kilobytes=limits.memory // 2**10,
            compile=compile_line,
            run=run,
        )
        mounts, covered = _mounts(self)
        view = box.View(mounts, covered, self.environment, starts_processes=True)
        return box.Command(["/bin/sh", "-c", script], view, limits, file, text)


def open_toolchain(language: Language, parts: Parts, sandbox: str | None) -> Toolchain:
    """The toolchain of a language, which was started in the sandbox. Raises UserError."""
    cache = compiled_packages(parts.executables[0]) if language.name == "go" else None
    toolchain = Toolchain(language, parts, cache)
    probe = toolchain.command(parts.library, f"{language.version} >&2", PROBE_SECONDS)
    ended = run(probe, sandbox)
    said = ended.output.decode(errors="replace").strip()
    if ended.status != PASSED:
        command = parts.library if ended.status == COMPILE_ERROR else language.version
        raise UserError(
            f"{command}, for problems in {language.name}, does not work in the sandbox; nothing "
            f"was run. It says: {said[-500:] or ended.status}"
        )
    return replace(toolchain, version=said.partition("\n")[0])


@cache
def compiled_packages(go: Path) -> Path:
    """Go's standard library, compiled: else each program compiles its part, for 10 s and more.

    The folder exists until this process ends.
    """
    say("go: compiling the standard library, once")
    folder = Path(tempfile.mkdtemp(prefix="xft-go-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # the sandbox may be another user's
    environment = Toolchain(LANGUAGES["go"], Parts((go,), (), ""), folder).environment
    done = subprocess.run([go, "build", "std"], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{go} build std failed; nothing was run. It says: {done.stderr[-500:]}")
    return folder


@cache
def _mounts(toolchain: Toolchain) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mounts that a language needs, and which folder of them is covered: this project."""
    shown = [Path("/usr"), *toolchain.folders]
    settings = _settings(toolchain.language)
    is_project_shown = any(box.PROJECT.is_relative_to(folder) for folder in shown)
    hidden = [box.PROJECT] if is_project_shown else []
    folders = []
    for parent in _parents([*shown, *settings]):
        folders += ["--dir", str(parent)]
    mounts = [
        *folders,
        *box.bind(shown),
        *box.links(*SYSTEM),
        *box.bind(settings),
        *box.cover(hidden),
    ]
    return tuple(mounts), tuple(str(folder) for folder in hidden)


def _settings(language: Language) -> list[Path]:
    """The files and folders below /etc that programs of a language read."""
    patterns = [*SETTINGS]
    if language.settings:
        patterns.append(language.settings)
    return [path for pattern in patterns for path in Path("/etc").glob(pattern)]


def _parents(paths: Iterable[Path]) -> list[Path]:
    """The folders that hold paths, each once, and each behind those that hold it."""
    parents = []
    for path in paths:
        parents += reversed(path.parents)
    return list(dict.fromkeys(parents))


def with_word(language: Language, program: str, word: str) -> str:
    """The program that prints a word of letters and digits at its end, if its last test ran."""
    built = languages.as_built(language, program)
    half = len(word) // 2
    words = {"MAIN": languages.main_class(program), "LEFT": word[:half], "RIGHT": word[half:]}
    in_main = built.start
    at_end = built.end
    if built.in_main:
        in_main = built.end
        at_end = ""
    for name, text in words.items():
        in_main = in_main.replace(name, text)
        at_end = at_end.replace(name, text)
    if language.name == "go":
        program = GO_PACKAGE.sub(r'\g<0>; import xft_os "os"', program, count=1)
    elif language.name == "lua":
        program = LUA_EXIT.sub(r"local xft_status = \1", program)
    place = _start_of_main(program) if in_main else len(program)
    return f"{program[:place]}\n{in_main}{program[place:]}\n{at_end}"


def _start_of_main(program: str) -> int:
    """The place behind the brace that begins the last `main`. The end if the text has no `main`."""
    place = len(program)
    for main in START_OF_MAIN.finditer(program):
        place = main.end()
    return place


class ProgramScorer:
    """Runs the programs of a set of problems.

    versions: of the languages, as their compilers or runtimes say. Raises UserError if one does not
    run on this machine.
    """

    def __init__(self, data_set: DataSet, sandbox: str | None, workers: int):
        self.data_set = data_set
        self.sandbox = sandbox
        self.workers = workers
        programs = [(p.language, p.prompt + p.tests) for p in data_set.problems]
        self.toolchains = {
            name: open_toolchain(LANGUAGES[name], parts, sandbox)
            for name, parts in find_toolchains(programs).items()
        }
        self.versions = {name: chain.version for name, chain in self.toolchains.items()}
        of_all = "" if sandbox is None else ", and of all of a program"
        memory = box.Limits(SECONDS).memory // 2**30
        self.memory_bound = f"{memory} GiB of data of each process{of_all}"

    def expected(self) -> dict[str, str]:
        """No results, since none are needed. Tells which canonical solutions do not pass."""
        known = [p for p in self.data_set.problems if p.canonical_solution is not None]
        programs = [(p.language, p.program(p.canonical_program)) for p in known]
        ends = self._ends(programs)
        faults = []
        for problem, program in zip(known, programs, strict=True):
            ended = ends[program]
            if ended.status != PASSED:
                place = f"line {self.data_set.lines[problem.task_id]}, {problem.task_id}"
                reason = _reason(ended.output.decode(errors="replace"))
                faults.append(f"{place}: {ended.status}: {reason}")
        if faults:
            solutions = counted(len(faults), "canonical solution")
            say(f"{solutions} of {self.data_set.file} would fail:\n{listed(faults)}")
        return {}

    def score(
        self, expected: dict[str, str], solutions: Sequence[tuple[ProgramProblem, str]]
    ) -> list[scoring.Statuses]:
        """The statuses of each solution, in order. Both sets of tests are the problem's one.

        Equal programs run once.
        """
        programs = [
            None if is_empty(problem, code) else (problem.language, problem.program(code))
            for problem, code in solutions
        ]
        ends = self._ends(program for program in programs if program is not None)
        statuses = [ends[program].status if program else NO_CODE for program in programs]
        return [scoring.Statuses(status, status) for status in statuses]

    def _ends(self, programs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Ended]:
        """How each program ends. programs: language and text."""

        def judge(
            program: tuple[str, str], is_again: bool, stop: scoring.Stop
        ) -> tuple[Ended, bool]:
            language, text = program
            chain = self.toolchains[language]
            word = secrets.token_hex()
            text = with_word(chain.language, text, word)
            file, compile, run_program = languages.commands(chain.language, text)
            command = chain.command(compile, run_program, SECONDS, file, text)
            ended = run(command, self.sandbox, stop)
            if ended.status == PASSED and word.encode() not in ended.printed:
                ended = Ended(FAILED, STOPPED)
            return ended, ended.status == TIMED_OUT

        different = list(dict.fromkeys(programs))
        ends = scoring.score(different, judge, workers=self.workers, unit="program")
        return dict(zip(different, ends, strict=True))


def _reason(text: str) -> str:
    """The first line of a program's output that speaks of an error, or else the last line."""
    lines = text.strip().splitlines() or [""]
    reason = next((line for line in lines if "rror" in line), lines[-1])
    return reason[:MOST_TEXT]
