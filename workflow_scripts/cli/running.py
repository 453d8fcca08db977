"""A command runs: a user's mistake ends in one message and a non-zero exit status."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable

from workflow_scripts.common import progress
from workflow_scripts.common.errors import UserError

ENVIRONMENT = {
    # Threads that wait in a loop for the next operation stall each other on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Kernels that oneDNN, and torch's layer on it, keep on a CPU in bf16: one for each number of
    # tokens that an expert met. The default of 1024 takes up to 570 MB, and saves 6% of time at
    # most (docs/planning.md).
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
# What the user can put right: a full disk, missing rights, a file that has gone meanwhile.
USER_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def run(step: str, main: Callable[[list[str] | None], None]) -> None:
    """Run a step's main. A user's mistake ends in one message and exit status 1."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    progress.name_job(step)
    try:
        main(None)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        progress.close_bars()  # the message comes last
        sys.exit(f"{step}: error: {message}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def failure(log: str) -> str | None:
    """The message with which a step ended, from its log; None where it did not end with one."""
    found = list(re.finditer(r"^\w+: error: .*", log, re.MULTILINE | re.DOTALL))
    return found[-1][0].rstrip() if found else None


def explain(error: Exception) -> str | None:
    """What to tell the user of an error that is the user's to put right; else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRORS:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}. Nothing was changed."
    return None
