"""Compiles and runs one program of any language, alone in a sandbox, and says how it ended."""

import atexit
import json
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xft.common.errors import UserError
from xft.common.progress import say
from xft.evaluation.confinement import program_filter
from xft.evaluation.execution import STARTS, Stopped
from xft.evaluation.judging import FAILED, PASSED
from xft.evaluation.languages import LANGUAGES, Language, Parts, commands
from xft.evaluation.sandbox import (
    CLEAN_ENVIRONMENT,
    ISOLATION,
    PROJECT,
    ZERO,
    Bubblewrap,
    bind,
    cover,
    links,
)
from xft.evaluation.scoring import COMPILE_ERROR, TIMED_OUT, TOO_COSTLY
from xft.evaluation.workers import Stop

MEMORY_BYTES = 2 * 2**30  # of a process's data, and of all processes together
FOLDER = "/tmp"  # the one writable folder, in memory
FOLDER_BYTES = 2**29
MOST_FILES = 20_000  # in it
MOST_PROCESSES = 128
MOST_OUTPUT, MOST_PRINTED = 2**20, 2**26  # bytes of error messages, and of standard output
KEPT_BYTES = 2**10  # of the end of standard output
HOLDS = re.compile(r"^Vm(?:RSS|Swap|PTE):\s+(\d+) kB", re.MULTILINE)  # PTE: page tables
SOCKET_KILOBYTES = 208  # that wait in a socket at most, which no process shows
LOOK_EACH = 0.05  # seconds, at what a program uses
CHUNK_BYTES = 2**16
PROBE_SECONDS = 60
NOT_COMPILED = 97  # the script's status if the compiler fails
READY = b"ready\n"
# sh is dash or bash, where the number of processes is -p or -u. A limit may be lower already.
SCRIPT = """
{{ ulimit -c 0; ulimit -n 512; ulimit -t {processor_seconds}; ulimit -d {kilobytes}
ulimit -u 1024 || ulimit -p 1024; }} 2>/dev/null
echo ready >&2
exec </dev/null
{compile}exec {run}
"""
SYSTEM = ("/bin", "/lib", "/lib64")
# Root has no limit of processes, and owns devices. So it becomes a user that no other program has,
# in place of a user namespace, which the filter refuses.
AS_ROOT = shlex.split("""
    --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --cap-drop ALL
    --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP
    --die-with-parent --new-session --hostname evalbox
""")
LEAVE_ROOT = shlex.split(
    "setpriv --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs"
)
NOT_AS_ROOT = ". Root needs CAP_SYS_ADMIN and the program setpriv for it: else be an ordinary user"
USERS = range(61_184, 65_520)  # that nobody has: systemd's for a while
# Below /etc, what programs of /usr read: of all languages, and of some.
SETTINGS = ("alternatives", "ld.so.cache")
OF_LANGUAGE = {"java": "java*", "php": "php", "pl": "perl", "lua": "lua", "r": "R", "d": "ldc*"}


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    status: PASSED if it ended with status 0, FAILED, COMPILE_ERROR, TIMED_OUT or TOO_COSTLY.
    text: what it wrote to its standard error.
    printed: the last 1,024 bytes that it wrote to its standard output.
    """

    status: str
    text: str
    printed: bytes = b""


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
        folders = [str(program.parent) for program in self.parts.programs]
        path = ":".join([*folders, CLEAN_ENVIRONMENT["PATH"]])
        jars = ":".join([*map(str, self.parts.jars), "."])
        of_go = {"GOCACHE": str(self.cache)} if self.cache else {}
        return CLEAN_ENVIRONMENT | of_go | {"PATH": path, "CLASSPATH": jars}

    @property
    def folders(self) -> list[Path]:
        """What the programs need beside the system. Of the user's own folders, only programs."""
        needed = [*self.parts.jars, *filter(None, [self.cache])]
        for program in self.parts.programs:
            folder = program.parent.parent if program.parent.name == "bin" else program.parent
            is_wide = Path.home().is_relative_to(folder) or folder == Path.home() / ".local"
            needed.append(program if is_wide else folder)
        return [path for path in dict.fromkeys(needed) if not path.is_relative_to("/usr")]


@dataclass(frozen=True)
class _Job:
    """A script to run in the sandbox, beside a file with a text."""

    toolchain: Toolchain
    script: str
    seconds: float
    file: str = "nothing"
    text: str = ""


class _NotStarted(Exception):
    """The sandbox did not reach the program. The text is the system's message."""


def open_toolchain(language: Language, parts: Parts, sandbox: Bubblewrap | None) -> Toolchain:
    """The toolchain of a language, which was started in the sandbox. Raises UserError."""
    cache = compiled_packages(parts.programs[0]) if language.name == "go" else None
    toolchain = Toolchain(language, parts, cache)
    script = _script(parts.library, f"{language.version} >&2", PROBE_SECONDS)
    stop, end = socket.socketpair()
    with stop, end:
        ended = _run(_Job(toolchain, script, PROBE_SECONDS), sandbox, stop)
    said = ended.text.strip()
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


def run_program(
    toolchain: Toolchain, program: str, *, sandbox: Bubblewrap | None, seconds: float, stop: Stop
) -> Ended:
    """Compile and run a program, together within `seconds`.

    sandbox: None means with the user's rights. Raises Stopped once `stop` is readable, and
    UserError if the sandbox does not start.
    """
    file, compile, run = commands(toolchain.language, program)
    script = _script(compile, run, seconds)
    return _run(_Job(toolchain, script, seconds, file, program), sandbox, stop)


def _script(compile: str, run: str, seconds: float) -> str:
    return SCRIPT.format(
        processor_seconds=2 * int(seconds),
        kilobytes=MEMORY_BYTES // 2**10,
        compile=f"{compile} >&2 || exit {NOT_COMPILED}\n" if compile else "",
        run=run,
    )


def _run(job: _Job, sandbox: Bubblewrap | None, stop: Stop) -> Ended:
    for _ in range(STARTS):
        try:
            return _attempt(job, sandbox, stop)
        except _NotStarted as error:
            reason = error
    raise UserError(
        f"a program does not start on this machine, tried {STARTS} times: {reason}. Free memory "
        f"and processes, and run the same command again{NOT_AS_ROOT if os.geteuid() == 0 else ''}"
    )


def _attempt(job: _Job, sandbox: Bubblewrap | None, stop: Stop) -> Ended:
    with ExitStack() as stack:
        command, given, info, folder = ["/bin/sh", "-c", job.script], [], None, "/"
        if sandbox:
            info, tell = os.pipe()
            given = [tell, _in_memory(CALLS()), _in_memory(job.text.encode())]
            for descriptor in (info, *given):
                stack.callback(os.close, descriptor)
            command = [*_walls(sandbox, job, *given), *command]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            Path(folder, job.file).write_text(job.text)
        # Pipes, and no device, whose mode a program could change.
        options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options |= {"env": job.toolchain.environment, "cwd": folder, "start_new_session": True}
        child = stack.enter_context(subprocess.Popen(command, pass_fds=given, **options))
        child.stdin.close()
        for pipe in (child.stdout, child.stderr):
            os.fchmod(pipe.fileno(), 0o666)  # /dev/stderr is opened by another user
        try:
            return _watch(child, info, job.seconds, stop)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _watch(child: subprocess.Popen, info: int | None, seconds: float, stop: Stop) -> Ended:
    """Wait for a program, and see that it stays within its limits.

    info: where bubblewrap says which process it started.
    """
    ends, look = time.monotonic() + seconds, 0.0
    text, printed, size, root, status = b"", b"", 0, None, None
    for said, chunk in _output(child, stop):
        text, printed, size = text + said, (printed + chunk)[-KEPT_BYTES:], size + len(chunk)
        now = time.monotonic()
        if info is not None and root is None and text.startswith(READY):
            root = Path(f"/proc/{json.loads(os.read(info, CHUNK_BYTES))['child-pid']}/root")
        if now > ends:
            status = TIMED_OUT
        elif len(text) > MOST_OUTPUT or size > MOST_PRINTED:
            status = TOO_COSTLY
        elif root and now > look:
            look = now + LOOK_EACH
            status = TOO_COSTLY if _uses_too_much(root) else None
        if status:
            break
    told = text.removeprefix(READY).decode(errors="replace")
    if not text.startswith(READY):
        raise _NotStarted(told.strip() or "it ended without a message")
    if status is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(ends - time.monotonic(), 1))
        ends_with = {None: TIMED_OUT, 0: PASSED, NOT_COMPILED: COMPILE_ERROR}
        status = ends_with.get(child.returncode, FAILED)
    return Ended(status, told, printed)


def _output(child: subprocess.Popen, stop: Stop) -> Iterator[tuple[bytes, bytes]]:
    """What comes from standard error and from standard output, until both end.

    Both are b"" if nothing comes for `LOOK_EACH` seconds.
    """
    streams = open_streams = [child.stderr.fileno(), child.stdout.fileno()]
    while open_streams:
        readable = select.select([stop, *open_streams], [], [], LOOK_EACH)[0]
        if stop in readable:
            raise Stopped
        chunks = {stream: os.read(stream, CHUNK_BYTES) for stream in readable}
        open_streams = [stream for stream in open_streams if chunks.get(stream) != b""]
        yield tuple(chunks.get(stream, b"") for stream in streams)


def _uses_too_much(root: Path) -> bool:
    """Whether the processes that see this as their root exceed a limit together."""
    kilobytes = processes = 0
    with suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):  # they end now
        files = os.statvfs(root / FOLDER[1:])
        if files.f_files - files.f_ffree > MOST_FILES:
            return True
        for number in filter(str.isdigit, os.listdir(root / "proc")):  # noqa: PTH208
            processes += 1
            with suppress(FileNotFoundError, ProcessLookupError):
                status = (root / "proc" / number / "status").read_text()
                kilobytes += sum(map(int, HOLDS.findall(status)))
        kilobytes += SOCKET_KILOBYTES * (root / "proc/1/net/unix").read_text().count("\n")
    return processes > MOST_PROCESSES or kilobytes > MEMORY_BYTES // 2**10


CALLS = cache(program_filter)  # that bubblewrap refuses


def _in_memory(content: bytes) -> int:
    """A descriptor of a file with this content."""
    descriptor = os.memfd_create("content")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _walls(sandbox: Bubblewrap, job: _Job, info: int, calls: int, text: int) -> list[str]:
    """The command line of the sandbox, without the program.

    info, calls, text: descriptors of where it tells its process, of the filter, and of the text.
    """
    isolation, user = ISOLATION, []
    if os.geteuid() == 0:
        number = random.choice(USERS)
        isolation, user = AS_ROOT, [*LEAVE_ROOT, f"--reuid={number}", f"--regid={number}", "--"]
    return [
        *(sandbox.program, *isolation, "--info-fd", str(info), "--seccomp", str(calls)),
        *("--size", str(FOLDER_BYTES), "--perms", "1777", "--tmpfs", FOLDER),
        *("--file", str(text), f"{FOLDER}/{job.file}", "--proc", "/proc", *_mounts(job.toolchain)),
        *("--chdir", FOLDER, "--", *user),
    ]


@cache
def _mounts(toolchain: Toolchain) -> list[str]:
    """What a language needs of the system, and last that all is read-only."""
    shown = [Path("/usr"), *toolchain.folders]
    hidden = [PROJECT] if any(map(PROJECT.is_relative_to, shown)) else []
    names = filter(None, [*SETTINGS, OF_LANGUAGE.get(toolchain.language.name)])
    settings = [path for name in names for path in Path("/etc").glob(name)]
    parents = dict.fromkeys(p for path in (*shown, *settings) for p in reversed(path.parents))
    return [
        *(word for path in parents for word in ("--dir", str(path))),
        *(*bind(shown), *links(*SYSTEM), *bind(settings), *cover(hidden), "--dev", "/dev", *ZERO),
        *(w for path in (*hidden, "/dev", "/proc", "/") for w in ("--remount-ro", str(path))),
    ]
