"""The sandbox: runs a command within walls and limits, and says how it ended.

Bubblewrap gives it what its `View` shows of this machine, read-only, a folder of its own in memory,
and no network. It can make no call of `confinement.REFUSED`. All that it starts ends with it.
"""

import json
import math
import os
import random
import re
import select
import shlex
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from subprocess import PIPE, Popen

from xft.common.errors import UserError
from xft.evaluation import scoring
from xft.evaluation.confinement import program_filter
from xft.evaluation.scoring import COMPILE_ERROR, FAILED, PASSED, TIMED_OUT, TOO_COSTLY

PROJECT = Path(__file__).parents[2]
# The environment of each program, beside its own.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class View:
    """The part of this machine that a program sees.

    mounts: words for bubblewrap.
    covered: folders among them that are empty, and stay so.
    environment: all variables of the program.
    starts_processes: whether the program may start processes. Then it has a `/proc` of its own
        processes, can write to its folder, and is another user if root runs it. Else it must limit
        itself (`confinement`).
    """

    mounts: tuple[str, ...]
    covered: tuple[str, ...]
    environment: dict[str, str]
    starts_processes: bool


def bind(paths: Iterable) -> list[str]:
    """Mount files and folders, read-only."""
    return [word for path in paths for word in ("--ro-bind", str(path), str(path))]


def cover(paths: Iterable) -> list[str]:
    """Mount empty folders without room for a file."""
    return [word for path in paths for word in ("--size", "4096", "--tmpfs", str(path))]


def links(*names: str) -> Iterator[str]:
    """Mount folders as on this machine: as links into /usr, or as folders."""
    for path in map(Path, names):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from bind([path])


FOLDER = "/tmp"  # of a program, in memory
FOLDER_BYTES = 2**29
MOST_FILES = 20_000  # in it
MOST_PROCESSES = 128
MOST_PRINTED = 2**26  # bytes of standard output
KEPT_BYTES = 2**10  # of the end of standard output
STARTS = 3  # attempts to start a sandbox
START_SECONDS = 60.0  # of each attempt
HOLDS = re.compile(r"^Vm(?:RSS|Swap|PTE):\s+(\d+) kB", re.MULTILINE)  # PTE: page tables
# A socket holds at most this many times its buffer: the last message may be as large as the buffer.
UNREAD = 2
LOOK_EACH = 0.05  # seconds between two looks at what a program uses
END_EACH = 0.005  # seconds between two looks at whether a program has ended
CHUNK_BYTES = 2**16
NOT_COMPILED = 97  # a command's status if the compiler fails
READY = b"ready\n"
ISOLATION = shlex.split("--cap-drop ALL --die-with-parent --new-session --hostname evalbox")
AS_USER = shlex.split("--unshare-all --unshare-user --disable-userns")
# Root has no limit of processes, and owns devices. So a program that may start processes becomes a
# user that no other has, in place of a user namespace, which the filter refuses.
AS_ROOT = shlex.split("""
    --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try
    --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP
""")
DROP_ROOT = shlex.split("setpriv --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs")
NOT_AS_ROOT = ". Root needs CAP_SYS_ADMIN and the program setpriv for it: else be an ordinary user"
USERS = range(61_184, 65_520)  # that nobody has: systemd's for a while
# The devices and links in a program's /dev, and what they stand for.
DEVICES = {
    "/dev/null": "/dev/null",
    "/dev/full": "/dev/full",
    "/dev/random": "/dev/random",
    "/dev/urandom": "/dev/urandom",
    "/dev/zero": "/dev/full",  # it reads the same, and cannot be mapped
}
STREAMS = {
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/fd": "/proc/self/fd",
}


@dataclass(frozen=True)
class Limits:
    """The limits of a program.

    seconds: on the clock, in all.
    silence: seconds on the clock without output.
    memory: bytes of data of a process, and of all together.
    output: bytes on its standard error.
    """

    seconds: float
    silence: float = math.inf
    memory: int = 2 * 2**30
    output: int = 2**20


@dataclass(frozen=True)
class Command:
    """A command to run in a folder that holds a file.

    It writes `READY` to its standard error when it starts, and then its output.

    words: the executable and its arguments.
    file, text: the name and the content of the file.
    """

    words: list[str]
    view: View
    limits: Limits
    file: str
    text: str


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    status: PASSED if it ended with status 0, FAILED, COMPILE_ERROR, TIMED_OUT or TOO_COSTLY.
    output: what it wrote to its standard error.
    printed: the last 1,024 bytes that it wrote to its standard output.
    seconds: how long it ran.
    silence: the longest time without output, in seconds.
    """

    status: str
    output: bytes = b""
    printed: bytes = b""
    seconds: float = 0.0
    silence: float = 0.0


class NotStarted(Exception):
    """The sandbox did not reach the program. The text is the system's message."""


def run(command: Command, sandbox: str | None, stop: scoring.Stop | None = None) -> Ended:
    """Run a command. sandbox: the program bubblewrap; None means with the user's rights.

    Raises Stopped once `stop` is readable, and UserError if the program does not start.
    """
    for _ in range(STARTS):
        try:
            return attempt(command, sandbox, stop)
        except NotStarted as error:
            reason = error
    is_root = command.view.starts_processes and os.geteuid() == 0
    hint = NOT_AS_ROOT if is_root else ""
    raise UserError(
        f"a program does not start on this machine, tried {STARTS} times: {reason}. Free memory "
        f"and processes, and run the same command again{hint}"
    )


@dataclass(frozen=True)
class _Start:
    """How a command is started.

    words: the executable and its arguments. In the sandbox these are bubblewrap's.
    folder: where it starts.
    descriptors: those that it inherits.
    info: where bubblewrap says which process it started; None without a sandbox.
    """

    words: list[str]
    folder: str
    descriptors: tuple[int, ...] = ()
    info: int | None = None


def attempt(command: Command, sandbox: str | None, stop: scoring.Stop | None = None) -> Ended:
    """Run a command as `run`. Raises NotStarted if the program does not start."""
    prepared = _without_walls(command) if sandbox is None else _within_walls(command, sandbox)
    with prepared as start, _started(start, command.view.environment) as child:
        child.stdin.close()
        for pipe in (child.stdout, child.stderr):
            os.fchmod(pipe.fileno(), 0o666)  # /dev/stderr is opened by another user
        try:
            return _watch(child, start.info, command, stop)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def _without_walls(command: Command) -> Iterator[_Start]:
    """Start a command in a temporary folder of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, command.file).write_text(command.text)
        yield _Start(command.words, folder)


@contextmanager
def _within_walls(command: Command, sandbox: str) -> Iterator[_Start]:
    """Start a command by bubblewrap, with descriptors that are open in the context."""
    info, tell = os.pipe()
    calls = _in_memory(program_filter())
    text = _in_memory(command.text.encode())
    try:
        words = [sandbox, *_walls(command, tell, calls, text), *command.words]
        yield _Start(words, "/", (tell, calls, text), info)
    finally:
        for descriptor in (info, tell, calls, text):
            os.close(descriptor)


def _started(start: _Start, environment: dict[str, str]) -> Popen:
    """The process of a command. It has pipes, and no device, whose mode a program could change."""
    return Popen(
        start.words,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
        cwd=start.folder,
        pass_fds=start.descriptors,
        start_new_session=True,
    )


def _watch(child: Popen, info: int | None, command: Command, stop: scoring.Stop | None) -> Ended:
    """Wait for a program, and see that it stays within its limits.

    info: where bubblewrap says which process it started.
    """
    output = _output(child, stop)
    first = _first(output)
    root = None
    if info is not None and command.view.starts_processes:
        told = json.loads(os.read(info, CHUNK_BYTES))
        root = Path(f"/proc/{told['child-pid']}/root")
    running = _Running(command.limits, root)
    for said, printed in chain([first], output):
        running.take(said, printed)
        if status := running.exceeded():
            return running.ended(status)
    statuses = {0: PASSED, NOT_COMPILED: COMPILE_ERROR}
    return running.ended(statuses.get(child.returncode, FAILED))


class _Running:
    """A program's output and times since it began.

    root: the root folder that its processes see, if it may start some.
    said: all of standard error.
    printed: the end of standard output.
    silence: the longest time without a word on standard error, in seconds.
    """

    def __init__(self, limits: Limits, root: Path | None):
        now = time.monotonic()
        self.limits = limits
        self.root = root
        self.began = now
        self.last_said = now
        self.next_look = now
        self.said = bytearray()
        self.printed = b""
        self.printed_bytes = 0
        self.silence = 0.0

    def take(self, said: bytes, printed: bytes) -> None:
        """Note what came from standard error, and from standard output."""
        now = time.monotonic()
        self.silence = max(self.silence, now - self.last_said)
        if said:
            self.last_said = now
        self.said += said
        self.printed = (self.printed + printed)[-KEPT_BYTES:]
        self.printed_bytes += len(printed)

    def exceeded(self) -> str | None:
        """The status for a limit that the program exceeds."""
        now = time.monotonic()
        limits = self.limits
        if now - self.began > limits.seconds or self.silence > limits.silence:
            return TIMED_OUT
        if len(self.said) > limits.output or self.printed_bytes > MOST_PRINTED:
            return TOO_COSTLY
        if self.root and now > self.next_look:
            self.next_look = now + LOOK_EACH
            return TOO_COSTLY if _uses_too_much(self.root, limits.memory) else None
        return None

    def ended(self, status: str) -> Ended:
        seconds = time.monotonic() - self.began
        return Ended(status, bytes(self.said), self.printed, seconds, self.silence)


def _first(output: Iterator[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The first output, behind `READY`. Raises NotStarted if that does not come in time."""
    said = b""
    ends = time.monotonic() + START_SECONDS
    for chunk, out in output:
        said += chunk
        if READY in said:
            return said.partition(READY)[2], out
        if time.monotonic() > ends:
            said += b"it took too long"
            break
    raise NotStarted(said.decode(errors="replace").strip() or "it ended without a message")


def _output(child: Popen, stop: scoring.Stop | None) -> Iterator[tuple[bytes, bytes]]:
    """Pieces of standard error and of standard output, until both and the process end.

    Both are b"" if nothing comes for `LOOK_EACH` seconds.
    """
    watched = [stop] if stop else []
    streams = [child.stderr.fileno(), child.stdout.fileno()]
    open_streams = streams
    while child.poll() is None or open_streams:
        wait = LOOK_EACH if open_streams else END_EACH
        readable = select.select([*watched, *open_streams], [], [], wait)[0]
        if stop in readable:
            raise scoring.Stopped
        chunks = {stream: os.read(stream, CHUNK_BYTES) for stream in readable}
        open_streams = [stream for stream in open_streams if chunks.get(stream) != b""]
        yield tuple(chunks.get(stream, b"") for stream in streams)


def _uses_too_much(root: Path, most_memory: int) -> bool:
    """Whether the processes that see this as their root exceed a limit together."""
    kilobytes = 0
    processes = 0
    with suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):  # they end now
        files = os.statvfs(root / FOLDER[1:])
        if files.f_files - files.f_ffree > MOST_FILES:
            return True
        for name in os.listdir(root / "proc"):  # noqa: PTH208
            if name.isdigit():
                processes += 1
                kilobytes += _process_kilobytes(root / "proc" / name)
        sockets = (root / "proc/1/net/unix").read_text().count("\n")
        kilobytes += _socket_kilobytes() * sockets
    return processes > MOST_PROCESSES or kilobytes > most_memory // 2**10


def _process_kilobytes(folder: Path) -> int:
    """The memory of a process. folder: its folder in /proc."""
    try:
        status = (folder / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return sum(int(kilobytes) for kilobytes in HOLDS.findall(status))


@cache
def _socket_kilobytes() -> int:
    """The most memory that a socket holds. No process shows it, and none can widen the buffer."""
    first, second = socket.socketpair()
    with first, second:
        return UNREAD * first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2**10


def _in_memory(content: bytes) -> int:
    """A descriptor of a file with this content."""
    descriptor = os.memfd_create("content")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _walls(command: Command, info: int, calls: int, text: int) -> list[str]:
    """The arguments of bubblewrap, without the program.

    info, calls, text: descriptors of where it tells its process, of the filter, and of the text.
    """
    view = command.view
    isolation = AS_USER
    user = []
    if view.starts_processes and os.geteuid() == 0:
        number = random.choice(USERS)
        isolation = AS_ROOT
        user = [*DROP_ROOT, f"--reuid={number}", f"--regid={number}", "--"]
    if view.starts_processes:
        processes = ["--proc", "/proc"]
        sealed = [*view.covered, "/dev", "/proc", "/"]
    else:
        processes = []
        sealed = [*view.covered, "/dev", FOLDER, "/"]
    return [
        *ISOLATION,
        *isolation,
        *("--info-fd", str(info)),
        *("--seccomp", str(calls)),
        *("--size", str(FOLDER_BYTES), "--perms", "1777", "--tmpfs", FOLDER),
        *("--file", str(text), f"{FOLDER}/{command.file}"),
        *processes,
        *view.mounts,
        *_devices(),
        *(word for place in sealed for word in ("--remount-ro", place)),
        *("--chdir", FOLDER),
        "--",
        *user,
    ]


def _devices() -> list[str]:
    """Mount /dev with `DEVICES` and `STREAMS`, without room for a file."""
    words = cover(["/dev"])
    for name, real in DEVICES.items():
        words += ["--dev-bind", real, name]
    for name, real in STREAMS.items():
        words += ["--symlink", real, name]
    return words
