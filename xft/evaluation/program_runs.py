"""Compiles and runs one program of any language, alone in a sandbox, and says how it ended."""

import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.execution import STARTS, Stopped
from xft.evaluation.judging import FAILED, PASSED
from xft.evaluation.languages import Language, find_toolchain, main_class
from xft.evaluation.sandbox import (
    CLEAN_ENVIRONMENT,
    DEVICES,
    ISOLATION,
    PROJECT,
    Bubblewrap,
    _bind,
    _cover,
    _links,
)
from xft.evaluation.scoring import TIMED_OUT, TOO_COSTLY
from xft.evaluation.system_calls import program_filter
from xft.evaluation.workers import Stop

COMPILE_ERROR = "compile error"
MEMORY_BYTES = 2 * 2**30  # of a process's data, and of all processes together
FOLDER = "/tmp"  # the one writable folder, in memory
FOLDER_BYTES = 2**29
MOST_FILES = 20_000  # in it
MOST_PROCESSES = 128
MOST_OUTPUT = 2**20  # bytes of error messages
LOOK_EACH = 0.05  # seconds, at the processes
PROBE_SECONDS = 60
NOT_COMPILED = 97  # the script's status if the compiler fails
READY = b"ready\n"
# For dash or bash, which have -p or -u for the number of processes.
SCRIPT = """
ulimit -c 0; ulimit -n 512; ulimit -t {processor_seconds}; ulimit -d {kilobytes}
ulimit -u 1024 2>/dev/null || ulimit -p 1024
echo ready >&2
exec </dev/null >{output}
{compile}exec {run}
"""
SETTINGS = ("alternatives", "ld.so.cache", "java*", "php", "perl", "lua", "R", "ldc*")


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote to its standard error.

    status: PASSED if it ended with status 0, FAILED, COMPILE_ERROR, TIMED_OUT or TOO_COSTLY.
    """

    status: str
    text: str


@dataclass(frozen=True)
class Toolchain:
    """The programs of a language on this machine. jars: for Java. version: as it says itself."""

    language: Language
    programs: tuple[Path, ...]
    jars: tuple[Path, ...]
    version: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """All variables that a program has."""
        folders = [str(program.parent) for program in self.programs]
        path = ":".join(dict.fromkeys([*folders, *CLEAN_ENVIRONMENT["PATH"].split(":")]))
        jars = ":".join(map(str, [*self.jars, "."]))
        return CLEAN_ENVIRONMENT | {"PATH": path, "CLASSPATH": jars}

    @property
    def folders(self) -> list[Path]:
        """What the programs need outside of /usr. Never the user's files: there, only themselves."""
        found = [*self.jars]
        for program in self.programs:
            folder = program.parent.parent if program.parent.name == "bin" else program.parent
            is_wide = Path.home().is_relative_to(folder) or folder == Path.home() / ".local"
            found.append(program if is_wide else folder)
        return [path for path in dict.fromkeys(found) if not path.is_relative_to("/usr")]


class _NotStarted(Exception):
    """The sandbox did not reach the program. The text is the system's message."""


def open_toolchain(
    language: Language, jars: tuple[Path, ...], sandbox: Bubblewrap | None
) -> Toolchain:
    """The toolchain of a language, which was started in the sandbox. Raises UserError."""
    toolchain = Toolchain(language, tuple(find_toolchain(language)), jars)
    stop, end = socket.socketpair()
    with stop, end:
        script = _script("", language.version, PROBE_SECONDS, output="&2")
        ended = _run(toolchain, "", "", script, sandbox, PROBE_SECONDS, stop)
    if ended.status != PASSED:
        raise UserError(
            f"{language.version} for problems in {language.name} {ended.status} in the sandbox; "
            f"nothing was run. It says: {ended.text.strip()[-500:]}"
        )
    return replace(toolchain, version=ended.text.strip().partition("\n")[0])


def run_program(
    toolchain: Toolchain, program: str, *, sandbox: Bubblewrap | None, seconds: float, stop: Stop
) -> Ended:
    """Compile and run a program, together within `seconds`. sandbox: None: with the user's rights.

    Raises Stopped once `stop` is readable, and UserError if the sandbox does not start.
    """
    language, main = toolchain.language, main_class(program)
    compile, run, file = (
        text.format(main=main) for text in (language.compile, language.run, language.file)
    )
    script = _script(compile, run, seconds)
    ended = _run(toolchain, file, program, script, sandbox, seconds, stop)
    return ended


def _script(compile: str, run: str, seconds: float, output: str = "/dev/null") -> str:
    return SCRIPT.format(
        processor_seconds=2 * int(seconds),
        kilobytes=MEMORY_BYTES // 2**10,
        output=output,
        compile=f"{compile} || exit {NOT_COMPILED}\n" if compile else "",
        run=run,
    )


def _run(
    toolchain: Toolchain, file: str, program: str, script: str, sandbox, seconds: float, stop: Stop
) -> Ended:
    for _ in range(STARTS):
        try:
            return _attempt(toolchain, file, program, script, sandbox, seconds, stop)
        except _NotStarted as error:
            reason = error
    raise UserError(
        f"a program does not start on this machine, tried {STARTS} times: {reason}. Free memory "
        "and processes, and run the same command again"
    )


def _attempt(toolchain, file: str, program: str, script: str, sandbox, seconds, stop) -> Ended:
    with ExitStack() as stack:
        folder, command, kept, info = "/", ["/bin/sh", "-c", script], [], None
        if sandbox:
            info, tell = os.pipe()
            kept = [tell, _in_memory(program_filter()), _in_memory(program.encode())]
            for descriptor in (info, *kept):
                stack.callback(os.close, descriptor)
            command = [*_walls(sandbox, toolchain, file, *kept), *command]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            Path(folder, file or "none").write_text(program)
        child = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # no device of this machine
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=toolchain.environment,
                cwd=folder,
                pass_fds=kept,
                start_new_session=True,
            )
        )
        child.stdin.close()
        try:
            return _watch(child, info, seconds, stop)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _watch(child: subprocess.Popen, info: int | None, seconds: float, stop: Stop) -> Ended:
    """Wait for a program, and look at what it uses. info: where bubblewrap says its process."""
    ends, pipe, text, root, limit = time.monotonic() + seconds, child.stdout, b"", None, None
    while limit is None and child.poll() is None:
        readable = select.select([stop, *([pipe] if pipe else [])], [], [], LOOK_EACH if pipe else 0)[0]
        if stop in readable:
            raise Stopped
        if pipe in readable:
            chunk = os.read(pipe.fileno(), 2**16)
            text, pipe = text + chunk, pipe if chunk else None
        elif not pipe:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_EACH)
        if info is not None and root is None and text.startswith(READY):
            root = Path(f"/proc/{json.loads(os.read(info, 2**12))['child-pid']}/root")
        if time.monotonic() > ends:
            limit = TIMED_OUT
        elif len(text) > MOST_OUTPUT or (root and _uses_too_much(root)):
            limit = TOO_COSTLY
    if limit is None and pipe:
        text += pipe.read(MOST_OUTPUT)
    said = text.removeprefix(READY).decode(errors="replace")
    if not text.startswith(READY):
        raise _NotStarted(said.strip() or "it ended without a message")
    if limit is None:
        limit = {0: PASSED, NOT_COMPILED: COMPILE_ERROR}.get(child.returncode, FAILED)
    return Ended(limit, said)


def _uses_too_much(root: Path) -> bool:
    """Whether all processes below the sandbox's root together exceed a limit."""
    pages = processes = 0
    with suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):  # they end now
        files = os.statvfs(root / FOLDER[1:])
        if files.f_files - files.f_ffree > MOST_FILES:
            return True
        for number in filter(str.isdigit, os.listdir(root / "proc")):  # noqa: PTH208
            processes += 1
            with suppress(FileNotFoundError, ProcessLookupError):
                pages += int((root / "proc" / number / "statm").read_text().split()[1])
    return processes > MOST_PROCESSES or pages * os.sysconf("SC_PAGE_SIZE") > MEMORY_BYTES


def _in_memory(content: bytes) -> int:
    """A descriptor of a file with this content."""
    descriptor = os.memfd_create("content")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _walls(
    sandbox: Bubblewrap, toolchain: Toolchain, file: str, info: int, calls: int, source: int
) -> list[str]:
    """The command line of the sandbox, without the program.

    info, calls, source: descriptors of where it tells its process, the filter and the file.
    """
    settings = [path for name in SETTINGS for path in Path("/etc").glob(name)]
    shown = [Path("/usr"), *toolchain.folders]
    hidden = [PROJECT] if any(map(PROJECT.is_relative_to, shown)) else []
    links = [("usr/bin", "/bin"), ("/proc/self/fd", "/dev/fd")]
    links += [(f"/proc/self/fd/{n}", f"/dev/{name}") for n, name in enumerate(("stdin", "stdout", "stderr"))]
    return [
        *(sandbox.program, *(word for word in ISOLATION if word != "--as-pid-1")),
        *("--info-fd", str(info), "--seccomp", str(calls)),
        *(*_bind(shown), *_links(), *_bind(settings), *_cover([*hidden, "/dev"])),
        *(word for path in DEVICES for word in ("--dev-bind", path, path)),
        *(word for link in links for word in ("--symlink", *link)),
        *("--proc", "/proc", "--size", str(FOLDER_BYTES), "--tmpfs", FOLDER),
        *(("--file", str(source), f"{FOLDER}/{file}") if file else ()),
        *(word for path in [*hidden, "/dev", "/proc", "/"] for word in ("--remount-ro", str(path))),
        *("--chdir", FOLDER, "--"),
    ]
