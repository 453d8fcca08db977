"""Jobs that start at once: a process imports what steps need once, and each job is a fork of it.

A run starts this file as a program, the server, which ends with the run. It imports nothing of this
project: a job does that, so that it has the code as it is by then. It computes nothing, as threads
end with a fork. A job that cannot be a fork is a new process, as by hand.

A job has a keeper, which waits for it and says how it ended, even if the server has ended. Both are
in the process group of the run, and so get what a terminal or a scheduler sends.

CUDA works in a fork if the process that forks has not used it. The imports do not use it, and the
server asks torch for no device: a job takes its GPU itself.

The judges of solutions and the tests have servers of their own, which say why
(`xft/evaluation/judges.py`, `tests/fork_server.py`).
"""

import ctypes
import gc
import importlib
import json
import os
import re
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, suppress
from pathlib import Path

# The environment variable with the path of the server's socket. If it is empty, nothing forks.
SOCKET = "XFT_FORKS"
TORCH = ("numpy", "torch")
MODELS = (*TORCH, "transformers.modeling_utils", "transformers.models.auto.modeling_auto")
# What a step needs. A step that needs less than torch is a new process.
IMPORTS = dict.fromkeys(["dense", "diversity", "ffn", "soup", "weighted_init"], TORCH)
IMPORTS |= dict.fromkeys(["moe", "tokens", "eval", "validation_loss"], MODELS)
IMPORTS |= dict.fromkeys(["moe_sft", "sft", "weighted_trained"], (*MODELS, "transformers.trainer"))
# Variables that may differ between the server and a job: no import above depends on them.
FREE = re.compile(
    r"XFT_\w+|\w+_THREADS|PATH|_|SHLVL|(OLD)?PWD|TE?MP(DIR)?|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)"
)
THREADS = "_NUM_THREADS"  # the end of the names of such variables
SET_BLAS_THREADS = "scipy_openblas_set_num_threads64_"
INHERITED = re.compile(r"^(?:(?:Umask|[UG]id|Groups|(?:Cpu|Mem)s_allowed):|Max|\d+:).*", re.M)
MOST = 2**20  # bytes of a message
# Seconds that a job waits for the server, which imports what the first job of a step needs.
PATIENCE = 60
CLIENT_PATIENCE = 5  # seconds that the server and a keeper wait for what a job sends
BEGIN = b"begin"  # a job that no longer waits does not send it, and runs as a new process
SIGNALS = {signal.SIGINT, signal.SIGTERM}  # the jobs', and not those of the server and keepers
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def start_server(environment: dict[str, str]) -> subprocess.Popen | None:
    """Start the server, and name its socket in the environment. None if it cannot be had.

    environment: of all jobs. The server has one thread, so that its imports start none. The socket
    has no name in the file system, so that none is left. Only processes of the same user reach it,
    through this one.
    """
    if SOCKET in os.environ or sys.platform != "linux":
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with suppress(OSError), listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(f"{folder}/socket")
        listener.listen(64)
        os.environ[SOCKET] = f"/proc/{os.getpid()}/fd/{os.open(f'{folder}/socket', os.O_PATH)}"
        command = [sys.executable, "-P", __file__, str(listener.fileno())]
        options = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        options |= {"stdin": subprocess.PIPE, "env": environment | {"OMP_NUM_THREADS": "1"}}
        return subprocess.Popen(command, pass_fds=[listener.fileno()], **options)


class NewProcess(subprocess.Popen):
    """A job as the first child of this process."""

    @property
    def used(self) -> tuple[float, int]:
        """Seconds of the processor, and the memory at its peak in the system's unit."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime, used.ru_maxrss


class Fork(AbstractContextManager):
    """A job as a fork, with what is needed of a `NewProcess`.

    used: empty if its keeper was killed, which ends the job.
    """

    def __init__(self, keeper: socket.socket):
        """Raises TimeoutError if the server is silent, and ValueError if it refuses the job."""
        self.keeper, self.pid = keeper, int(keeper.recv(MOST))
        self.keeper.send(BEGIN)
        self.returncode = self.used = None

    def __exit__(self, *_) -> None:
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Returns the exit status. Raises TimeoutError."""
        if self.returncode is None:
            self.keeper.settimeout(timeout)
            answer = self.keeper.recv(MOST) or f"[{-signal.SIGKILL}]"
            self.returncode, *self.used = json.loads(answer)
        return self.returncode


def start(command: list[str], environment: dict[str, str], log: int, lock: int):
    """Start a command as a `Fork` if it can be one, and else as a `NewProcess`.

    log, lock: open files that it writes into, and inherits.
    """
    match command:
        case ["python", "-m", module, *_] if (step := module.rpartition(".")[2]) in IMPORTS:
            with suppress(OSError, ValueError):
                keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                keeper.settimeout(PATIENCE)
                keeper.connect(os.environ.get(SOCKET, ""))
                keeper.send(step.encode())
                request = [inherited(), environment, str(Path.cwd()), command[2:]]
                socket.send_fds(keeper, [json.dumps(request).encode()], [0, log, log, lock])
                return Fork(keeper)
    return NewProcess(command, env=environment, pass_fds=[lock], stdout=log, stderr=log)


def inherited() -> list:
    """What a process has from its parent, beside files and environment."""
    text = "".join(Path("/proc/self", name).read_text() for name in ("status", "limits", "cgroup"))
    return [os.getpgrp(), os.nice(0), *INHERITED.findall(text)]


def serve(listener: socket.socket) -> socket.socket | None:
    """Fork for each client, until stdin ends. Returns the client in a fork."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    while 0 not in select.select([listener, 0], [], [])[0]:
        client = listener.accept()[0]
        client.settimeout(CLIENT_PATIENCE)
        try:
            step = client.recv(MOST).decode()
        except OSError:  # it sends nothing, or has ended
            client.close()
            continue
        for name in IMPORTS.get(step, TORCH):
            importlib.import_module(name)
        gc.freeze()  # what is never looked at stays shared
        if os.fork() == 0:
            listener.close()
            return client
        client.close()
        os.waitpid(-1, os.WNOHANG)  # a keeper that has ended
    return None


def keep(client: socket.socket) -> tuple[dict[str, str], str, list[str]]:
    """Return in a fork what it is to run. This process waits for it, tells the client, and ends.

    It ends at once if a new process would have anything otherwise than the fork.
    """
    content, files, _, _ = socket.recv_fds(client, MOST, 8)
    state, environment, *rest = json.loads(content)
    others = environment.items() - os.environ.items()
    if state != inherited() or not all(FREE.fullmatch(name) for name, _ in others):
        os._exit(1)
    if len({value for name, value in environment.items() if name.endswith(THREADS)}) != 1:
        os._exit(1)  # a library would have other threads than `run` gives to all
    if sys.modules["torch"].cuda._is_in_bad_fork():
        os._exit(1)  # the server has used CUDA, such as by an import of another version
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        client.send(b"%d" % os.getpid())  # from now on it gets the signals, and not the client
        if client.recv(MOST) != BEGIN:
            os._exit(1)
        client.close()
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
            os.close(file)
        return environment, *rest
    for file in files:  # the lock is the fork's
        os.close(file)
    _, status, used = os.wait4(child, 0)
    answer = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]
    with suppress(OSError):  # the client may have been killed
        client.send(json.dumps(answer).encode())
    os._exit(0)


def run(environment: dict[str, str], folder: str, words: list[str]) -> None:
    """Do what `cd folder; python -m WORDS` does in an environment.

    Like a new process, it starts without a seed (Python seeds `random` at each fork by itself), and
    with the threads that OMP_NUM_THREADS says, also those of numpy's OpenBLAS, which reads the
    variable only when it is loaded.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:0] = words, [folder]
    ctypes.CDLL(None).prctl(PR_SET_NAME, words[0].rpartition(".")[2].encode())
    tempfile.tempdir = None  # it may be another one
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].seed()
    threads = int(environment["OMP_NUM_THREADS"])
    sys.modules["torch"].set_num_threads(threads)
    blas = ctypes.CDLL(sys.modules["numpy"]._core._multiarray_umath.__file__)
    if hasattr(blas, SET_BLAS_THREADS):
        getattr(blas, SET_BLAS_THREADS)(min(threads, len(os.sched_getaffinity(0))))
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__" and (client := serve(socket.socket(fileno=int(sys.argv[1])))):
    run(*keep(client))
