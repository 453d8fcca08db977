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
from contextlib import ExitStack, suppress
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
    """What a program has of this machine.

    mounts: words for bubblewrap.
    covered: folders among them that are empty, and stay so.
    environment: all its variables.
    starts_processes: whether it may. Then it has a `/proc` of its own processes, can write to its
        folder, and is another user if root runs it. Else it must limit itself (`confinement`).
    """

    mounts: tuple[str, ...]
    covered: tuple[str, ...]
    environment: dict[str, str]
    starts_processes: bool


def bind(paths: Iterable) -> list[str]:
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
MOST_PRINTED, KEPT_BYTES = 2**26, 2**10  # of standard output, and of its end
STARTS, START_SECONDS = 3, 60.0  # attempts to start a sandbox, and the time of each
HOLDS = re.compile(r"^Vm(?:RSS|Swap|PTE):\s+(\d+) kB", re.MULTILINE)  # PTE: page tables
UNREAD = 2  # what waits in a socket at most, by its buffer: a last message may be as large as it
LOOK_EACH, END_EACH = 0.05, 0.005  # seconds, at what a program uses, and whether it has ended
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
# Their zero is full's, which reads the same, and cannot be mapped.
DEVICES = {path: path for path in ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")}
DEVICES["/dev/zero"] = "/dev/full"  # it reads the same, and cannot be mapped
STREAMS = {"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1"}
STREAMS |= {"/dev/stderr": "/proc/self/fd/2", "/dev/fd": "/proc/self/fd"}


@dataclass(frozen=True)
class Limits:
    """The limits of a program.

    seconds, silence: on the clock, in all and without output.
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
    file: str = "nothing"
    text: str = ""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    status: PASSED if it ended with status 0, FAILED, COMPILE_ERROR, TIMED_OUT or TOO_COSTLY.
    output: what it wrote to its standard error.
    printed: the last 1,024 bytes that it wrote to its standard output.
    seconds, silence: how long it ran, and at most without output.
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
    raise UserError(
        f"a program does not start on this machine, tried {STARTS} times: {reason}. Free memory "
        f"and processes, and run the same command again{NOT_AS_ROOT if is_root else ''}"
    )


def attempt(command: Command, sandbox: str | None, stop: scoring.Stop | None = None) -> Ended:
    """Run a command as `run`. Raises NotStarted if the program does not start."""
    with ExitStack() as stack:
        words, given, info, folder = command.words, [], None, "/"
        if sandbox:
            info, tell = os.pipe()
            given = [tell, _in_memory(program_filter()), _in_memory(command.text.encode())]
            for descriptor in (info, *given):
                stack.callback(os.close, descriptor)
            words = [sandbox, *_walls(command, *given), *words]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            Path(folder, command.file).write_text(command.text)
        # Pipes, and no device, whose mode a program could change.
        options = dict.fromkeys(("stdin", "stdout", "stderr"), PIPE)
        options |= {"env": command.view.environment, "cwd": folder, "start_new_session": True}
        child = stack.enter_context(Popen(words, pass_fds=given, **options))
        child.stdin.close()
        for pipe in (child.stdout, child.stderr):
            os.fchmod(pipe.fileno(), 0o666)  # /dev/stderr is opened by another user
        try:
            return _watch(child, info, command, stop)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _watch(child: Popen, info: int | None, command: Command, stop: scoring.Stop | None) -> Ended:
    """Wait for a program, and see that it stays within its limits.

    info: where bubblewrap says which process it started.
    """
    output, root = _output(child, stop), None
    first = _first(output)
    if info is not None and command.view.starts_processes:
        root = Path(f"/proc/{json.loads(os.read(info, CHUNK_BYTES))['child-pid']}/root")
    running = _Running(command.limits, root)
    for said, printed in chain([first], output):
        running.take(said, printed)
        if status := running.exceeded():
            return running.ended(status)
    return running.ended({0: PASSED, NOT_COMPILED: COMPILE_ERROR}.get(child.returncode, FAILED))


class _Running:
    """What a program did since it began. root: of its processes, if it may start some."""

    def __init__(self, limits: Limits, root: Path | None):
        self.limits, self.root = limits, root
        self.began = self.last_said = self.next_look = time.monotonic()
        self.said, self.printed, self.printed_bytes, self.silence = bytearray(), b"", 0, 0.0

    def take(self, said: bytes, printed: bytes) -> None:
        """Note what came from standard error, and from standard output."""
        now = time.monotonic()
        self.silence = max(self.silence, now - self.last_said)
        self.last_said = now if said else self.last_said
        self.said += said
        self.printed = (self.printed + printed)[-KEPT_BYTES:]
        self.printed_bytes += len(printed)

    def exceeded(self) -> str | None:
        """The status for a limit that the program exceeds."""
        now, limits = time.monotonic(), self.limits
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
    said, ends = b"", time.monotonic() + START_SECONDS
    for chunk, out in output:
        said += chunk
        if READY in said:
            return said.partition(READY)[2], out
        if time.monotonic() > ends:
            said += b"it took too long"
            break
    raise NotStarted(said.decode(errors="replace").strip() or "it ended without a message")


def _output(child: Popen, stop: scoring.Stop | None) -> Iterator[tuple[bytes, bytes]]:
    """What comes from standard error and from standard output, until both and the process end.

    Both are b"" if nothing comes for `LOOK_EACH` seconds.
    """
    watched = [stop] if stop else []
    streams = open_streams = [child.stderr.fileno(), child.stdout.fileno()]
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
        kilobytes += _socket_kilobytes() * (root / "proc/1/net/unix").read_text().count("\n")
    return processes > MOST_PROCESSES or kilobytes > most_memory // 2**10


@cache
def _socket_kilobytes() -> int:
    """What a socket holds at most, which no process shows. Programs cannot widen its buffer."""
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
    view, isolation, user = command.view, AS_USER, []
    if view.starts_processes and os.geteuid() == 0:
        number = random.choice(USERS)
        isolation, user = AS_ROOT, [*DROP_ROOT, f"--reuid={number}", f"--regid={number}", "--"]
    own = ["--proc", "/proc"] if view.starts_processes else []
    sealed = [*view.covered, "/dev", "/proc" if view.starts_processes else FOLDER, "/"]
    devices = [("--dev-bind", real, name) for name, real in DEVICES.items()]
    streams = [("--symlink", real, name) for name, real in STREAMS.items()]
    return [
        *(*ISOLATION, *isolation, "--info-fd", str(info), "--seccomp", str(calls)),
        *("--size", str(FOLDER_BYTES), "--perms", "1777", "--tmpfs", FOLDER),
        *("--file", str(text), f"{FOLDER}/{command.file}", *own, *view.mounts, *cover(["/dev"])),
        *(word for words in (*devices, *streams) for word in words),
        *(word for place in sealed for word in ("--remount-ro", place)),
        *("--chdir", FOLDER, "--", *user),
    ]
