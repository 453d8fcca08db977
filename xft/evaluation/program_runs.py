"""Compiles and runs one program of any language, alone in a sandbox, and says how it ended."""

import json
import os
import random
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.execution import STARTS, Stopped
from xft.evaluation.judging import FAILED, PASSED
from xft.evaluation.languages import (
    JAVAC,
    SMALL,
    Language,
    find_toolchain,
    main_class,
    variant,
)
from xft.evaluation.sandbox import (
    CLEAN_ENVIRONMENT,
    DEVICES,
    ISOLATION,
    PROJECT,
    Bubblewrap,
    bind,
    cover,
    links,
)
from xft.evaluation.scoring import COMPILE_ERROR, TIMED_OUT, TOO_COSTLY
from xft.evaluation.system_calls import program_filter
from xft.evaluation.workers import Stop

MEMORY_BYTES = 2 * 2**30  # of a process's data, and of all processes together
FOLDER = "/tmp"  # the one writable folder, in memory
FOLDER_BYTES = 2**29
MOST_FILES = 20_000  # in it
MOST_PROCESSES = 128
MOST_OUTPUT = 2**20  # bytes of error messages
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
exec </dev/null >{output}
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
NOT_AS_ROOT = ". Root needs CAP_SYS_ADMIN and the program setpriv for it: else be an ordinary user"
USERS = range(61_184, 65_520)  # that nobody has: systemd's for a while
# Below /etc, what programs of /usr read.
SETTINGS = ("alternatives", "ld.so.cache", "java*", "php", "perl", "lua", "R", "ldc*")
IN_DEV = {"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1"}
IN_DEV |= {"/dev/stderr": "fd/2"}


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    status: PASSED if it ended with status 0, FAILED, COMPILE_ERROR, TIMED_OUT or TOO_COSTLY.
    text: what it wrote to its standard error.
    """

    status: str
    text: str


@dataclass(frozen=True)
class Toolchain:
    """The programs of a language on this machine.

    jars: for Java.
    version: as it says itself.
    """

    language: Language
    programs: tuple[Path, ...]
    jars: tuple[Path, ...]
    version: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """All variables that a program has."""
        folders = [str(program.parent) for program in self.programs]
        path = ":".join(dict.fromkeys([*folders, *CLEAN_ENVIRONMENT["PATH"].split(":")]))
        return CLEAN_ENVIRONMENT | {
            "PATH": path,
            "CLASSPATH": ":".join([*map(str, self.jars), "."]),
        }

    @property
    def folders(self) -> list[Path]:
        """What the programs need beside the system. Of the user's own folders, only programs."""
        needed = [*self.jars]
        for program in self.programs:
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


def open_toolchain(
    language: Language, jars: tuple[Path, ...], sandbox: Bubblewrap | None
) -> Toolchain:
    """The toolchain of a language, which was started in the sandbox. Raises UserError."""
    toolchain = Toolchain(language, tuple(find_toolchain(language)), jars)
    script = _script("", language.version, PROBE_SECONDS, output="&2")
    stop, end = socket.socketpair()
    with stop, end:
        ended = _run(_Job(toolchain, script, PROBE_SECONDS), sandbox, stop)
    said = ended.text.strip()
    if ended.status != PASSED:
        raise UserError(
            f"{language.version}, for problems in {language.name}, {ended.status} in the sandbox; "
            f"nothing was run. It says: {said[-500:]}"
        )
    return replace(toolchain, version=said.partition("\n")[0])


def run_program(
    toolchain: Toolchain, program: str, *, sandbox: Bubblewrap | None, seconds: float, stop: Stop
) -> Ended:
    """Compile and run a program, together within `seconds`.

    sandbox: None means with the user's rights. Raises Stopped once `stop` is readable, and
    UserError if the sandbox does not start.
    """
    language = variant(toolchain.language, program)
    words = {"main": main_class(program), "small": SMALL, "javac": JAVAC}
    compile, run, file = (
        text.format(**words) for text in (language.compile, language.run, language.file)
    )
    script = _script(compile, run, seconds)
    return _run(_Job(toolchain, script, seconds, file, program), sandbox, stop)


def _script(compile: str, run: str, seconds: float, output: str = "/dev/null") -> str:
    return SCRIPT.format(
        processor_seconds=2 * int(seconds),
        kilobytes=MEMORY_BYTES // 2**10,
        output=output,
        compile=f"{compile} || exit {NOT_COMPILED}\n" if compile else "",
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
        command, given, info = ["/bin/sh", "-c", job.script], [], None
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if sandbox:
            info, tell = os.pipe()
            given = [tell, _in_memory(program_filter()), _in_memory(job.text.encode())]
            for descriptor in (info, *given):
                stack.callback(os.close, descriptor)
            command = [*_walls(sandbox, job, *given), *command]
        else:
            Path(folder, job.file).write_text(job.text)
        child = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # not a device, whose mode a program could change
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=job.toolchain.environment,
                cwd=folder,
                pass_fds=given,
                start_new_session=True,
            )
        )
        child.stdin.close()
        os.fchmod(child.stdout.fileno(), 0o666)  # /dev/stderr is opened by another user
        try:
            return _watch(child, info, job.seconds, stop)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _watch(child: subprocess.Popen, info: int | None, seconds: float, stop: Stop) -> Ended:
    """Wait for a program, and see that it stays within its limits.

    info: where bubblewrap says which process it started.
    """
    looks = time.monotonic()
    ends, text, root = looks + seconds, b"", None
    for chunk in _output(child, stop):
        text, now = text + chunk, time.monotonic()
        if info is not None and root is None and text.startswith(READY):
            root = Path(f"/proc/{json.loads(os.read(info, CHUNK_BYTES))['child-pid']}/root")
        is_due, looks = now >= looks, max(looks, now + LOOK_EACH * (now >= looks))
        if now > ends:
            status = TIMED_OUT
            break
        if len(text) > MOST_OUTPUT or (root and is_due and _uses_too_much(root)):
            status = TOO_COSTLY
            break
    else:
        status = {0: PASSED, NOT_COMPILED: COMPILE_ERROR}.get(child.returncode, FAILED)
    said = text.removeprefix(READY).decode(errors="replace")
    if not text.startswith(READY):
        raise _NotStarted(said.strip() or "it ended without a message")
    return Ended(status, said)


def _output(child: subprocess.Popen, stop: Stop) -> Iterator[bytes]:
    """What a program writes, until it has ended: b"" if it is nothing for `LOOK_EACH` seconds."""
    descriptor, is_open = child.stdout.fileno(), True
    while child.poll() is None:
        chunk = b""
        readable = select.select([stop, *[descriptor] * is_open], [], [], LOOK_EACH * is_open)[0]
        if stop in readable:
            raise Stopped
        if descriptor in readable:
            chunk = os.read(descriptor, CHUNK_BYTES)
            is_open = bool(chunk)
        if not is_open:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_EACH)
        yield chunk
    while is_open and select.select([descriptor], [], [], 0)[0]:
        chunk = os.read(descriptor, CHUNK_BYTES)
        is_open = bool(chunk)
        yield chunk


def _uses_too_much(root: Path) -> bool:
    """Whether the processes that see this as their root exceed a limit together."""
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


def _walls(sandbox: Bubblewrap, job: _Job, info: int, calls: int, text: int) -> list[str]:
    """The command line of the sandbox, without the program.

    info, calls, text: descriptors of where it tells its process, of the filter, and of the text.
    """
    isolation, user = ISOLATION, []
    if os.geteuid() == 0:
        isolation, user = AS_ROOT, _as_user(random.choice(USERS))
    shown = [Path("/usr"), *job.toolchain.folders]
    hidden = [PROJECT] if any(map(PROJECT.is_relative_to, shown)) else []
    settings = [path for name in SETTINGS for path in Path("/etc").glob(name)]
    parents = dict.fromkeys(p for path in (*shown, *settings) for p in reversed(path.parents))
    sealed = [*hidden, "/dev", "/proc", "/"]
    return [
        *(sandbox.program, *isolation, "--info-fd", str(info), "--seccomp", str(calls)),
        *("--size", str(FOLDER_BYTES), "--perms", "1777", "--tmpfs", FOLDER, "--proc", "/proc"),
        *(word for path in parents for word in ("--dir", str(path))),
        *(*bind(shown), *links(*SYSTEM), *bind(settings), *cover([*hidden, "/dev"])),
        *(word for path in DEVICES for word in ("--dev-bind", path, path)),
        *(word for path, target in IN_DEV.items() for word in ("--symlink", target, path)),
        *("--file", str(text), f"{FOLDER}/{job.file}"),
        *(word for path in sealed for word in ("--remount-ro", str(path))),
        *("--chdir", FOLDER, "--", *user),
    ]


def _as_user(number: int) -> list[str]:
    """In front of a command, which then runs as this user without rights."""
    return [
        *("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"),
    ]
