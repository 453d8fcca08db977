"""Settings of the operating system for the processes of a step.

malloc's settings; limits of time and memory for what others wrote, such as a template; work that is
spread over processes; the command that starts the processes of a training, and how these end.
"""

import atexit
import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

from xft.common.progress import progress

# Parameters of glibc's mallopt, and their values in bytes.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE = 32 * 2**20
MEMORY = resource.RLIMIT_AS
PR_SET_PDEATHSIG = 1
FEW = 10_000  # items that take little longer than processes take to start
CHUNK = 250  # items that a process gets at a time
AHEAD = 32  # chunks for each process that are in memory
Item, Result = TypeVar("Item"), TypeVar("Result")
_work: Callable  # in a process of `spread`
SECONDS_TO_STOP = 3600  # for a checkpoint after SIGTERM; clusters have shorter limits
FIRST_PORT = 12000
PORTS = 20000  # their number; all are below the ports that systems give to clients
# In the shell of a Slurm task. MASTER_ADDR and MASTER_PORT go first.
NODES = "${SLURM_STEP_NODELIST:?is not set: several nodes need srun}"
FIRST_NODE = f'${{MASTER_ADDR:-$(scontrol show hostnames "{NODES}" | head -n 1)}}'
PORT = f"${{MASTER_PORT:-$(({FIRST_PORT} + ${{SLURM_JOB_ID:-0}} % {PORTS}))}}"


def reuse_freed_memory() -> None:
    """Let glibc's malloc keep the memory of tensors below 32 MiB for the next ones.

    It keeps up to 64 MiB. By itself it does so after the first tensor of almost 32 MiB. Until then
    it gives memory back that the next tensors need again, and the system clears each of its pages.
    Another malloc, and one with variables such as MALLOC_TRIM_THRESHOLD_, stay as they are.
    """
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if is_glibc and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE)


@contextmanager
def limited(seconds: float, size: int) -> Iterator[None]:
    """Raise TimeoutError or MemoryError in a block that takes more than it may.

    seconds: of the CPU, so a busy or a suspended machine changes nothing.
    size: bytes in addition to those that the process has; without effect on macOS.

    Only for the main thread. A signal ends the process after twice the time: Python raises no error
    within one long operation.
    """
    limits = resource.getrlimit(MEMORY)
    handler = signal.signal(signal.SIGPROF, _stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)  # its signal ends the process
            signal.setitimer(signal.ITIMER_PROF, seconds)
            if sys.platform == "linux":
                _limit_memory(size, *limits)
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:  # also if the time is over within the other one
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(MEMORY, limits)
        signal.signal(signal.SIGPROF, handler)


def _stop(*_) -> None:
    raise TimeoutError


def _limit_memory(size: int, soft: int, hard: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * resource.getpagesize() + size
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(MEMORY, (min([wanted, *known]), hard))


def usable_cpus() -> int:
    """The CPUs that this process may use; all CPUs if the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Sequence[Item], **shown: str) -> Iterator[Result]:
    """The results of `work` for all items, in order, from a process for each usable CPU.

    `work`, the items and the results must be picklable. Few of them are in memory at a time. A
    process of torchrun, which has the CPUs of others beside it, works alone. shown: `desc` and
    `unit`, as for `progress`.
    """
    workers = 1 if "RANK" in os.environ or len(items) <= FEW else usable_cpus()
    if workers == 1:
        yield from map(work, progress(items, **shown))
        return

    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    rest = iter(items)
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool,
        progress(total=len(items), **shown) as bar,
    ):
        while some := list(islice(rest, AHEAD * workers * CHUNK)):
            for result in pool.map(_do, some, chunksize=CHUNK):
                bar.update()
                yield result


def _begin(work: Callable[[Item], Result]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    end_with_parent()


def _do(item: Item) -> Result:
    return _work(item)


def end_with_parent() -> None:
    """Let the system kill this process if the process that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def torchrun(processes: int, nodes: int) -> str:
    """The shell command in front of `-m workflow_scripts.<step>`, for each of the nodes.

    processes: on each.

    Several nodes are those of a Slurm step, in whose tasks a shell reads the command.
    """
    place = "--standalone"
    if nodes > 1:
        place = (
            f"--nnodes {nodes} --rdzv-backend c10d --rdzv-id ${{SLURM_JOB_ID:-0}} "
            f'--rdzv-endpoint "{FIRST_NODE}:{PORT}"'
        )
    return f"torchrun {place} --nproc-per-node {processes} --shutdown-timeout {SECONDS_TO_STOP}"


def end_process() -> NoReturn:
    """End this process of a group when all is written: run the exit handlers, and no destructors.

    DDP keeps gloo's threads running. One that lets go of a tensor while Python ends aborts the
    process.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
