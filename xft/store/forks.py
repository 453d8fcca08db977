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
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

# The environment variable with the path of the server's socket, /proc/<its process>/fd/<number>. If
# it is empty, nothing forks.
SOCKET = "XFT_FORKS"
TORCH = ("numpy", "torch")
MODELS = (*TORCH, "transformers.modeling_utils", "transformers.models.auto.modeling_auto")
TRAINER = (*MODELS, "transformers.trainer")
NO_TORCH = ()
# What each step imports that takes long. A step that needs no torch is a new process.
IMPORTS = {
    "base": NO_TORCH,
    "moe": MODELS,
    "fetch_data": NO_TORCH,
    "fetch_problems": NO_TORCH,
    "tokens": MODELS,
    "moe_sft": TRAINER,
    "sft": TRAINER,
    "soup": TORCH,
    "ffn": TORCH,
    "contamination": NO_TORCH,
    "diversity": TORCH,
    "weighted_init": TORCH,
    "weighted_trained": TRAINER,
    "dense": TORCH,
    "ground_truth": NO_TORCH,
    "eval": MODELS,
    "validation_loss": MODELS,
    "choose": NO_TORCH,
    "measure_chosen": NO_TORCH,
    "summary": NO_TORCH,
    "report": NO_TORCH,
}
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
SILENCE = 5  # seconds of them without an answer or any work, after which the server is given up
FIRST_WORD = 1  # seconds that the server waits for what a job wants: all others wait meanwhile
CLIENT_PATIENCE = 5  # seconds that a keeper waits for what a job sends
BEGIN = b"begin"  # a job that no longer waits does not send it, and runs as a new process
SIGNALS = {signal.SIGINT, signal.SIGTERM}  # the jobs', and not those of the server and keepers
STDIN = 0  # the server's, which ends with the run
# Options of prctl.
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def start_server(environment: dict[str, str]) -> subprocess.Popen | None:
    """Start the server, and name its socket in the environment. None if it cannot be had.

    The socket has no name in the file system, so that none is left. Only processes of the same user
    reach it, through the server.

    environment: of all jobs. The server has one thread, so that its imports start none.
    """
    if SOCKET in os.environ or sys.platform != "linux":
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with listener, tempfile.TemporaryDirectory() as folder:
            place = f"{folder}/socket"
            listener.bind(place)
            listener.listen(64)
            entrance = os.open(place, os.O_PATH)
            number = listener.fileno()
            server = subprocess.Popen(
                [sys.executable, "-P", __file__, str(number)],
                pass_fds=[number, entrance],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment | {"OMP_NUM_THREADS": "1"},
            )
            os.close(entrance)
    except OSError:
        return None
    os.environ[SOCKET] = f"/proc/{server.pid}/fd/{entrance}"
    return server


class NewProcess(subprocess.Popen):
    """A job as the first child of this process."""

    @property
    def used(self) -> tuple[float, int]:
        """Seconds of the processor, and the memory at its peak in the system's unit."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime, used.ru_maxrss


class Fork(AbstractContextManager):
    """A job as a fork, with what is needed of a `NewProcess`.

    keeper: the connection to its keeper.
    pid: its number.
    returncode: its exit status; None until `wait` has seen its end.
    used: as of a `NewProcess`, then; empty if its keeper was killed, which ends the job.
    """

    def __init__(self, keeper: socket.socket, pid: int):
        """Let it begin."""
        self.keeper = keeper
        self.pid = pid
        self.keeper.send(BEGIN)
        self.returncode: int | None = None
        self.used: list | None = None

    def __exit__(self, *_) -> None:
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Returns the exit status. Raises TimeoutError."""
        if self.returncode is None:
            self.keeper.settimeout(timeout)
            answer = self.keeper.recv(MOST)
            if answer:
                self.returncode, *self.used = json.loads(answer)
            else:
                self.returncode = -signal.SIGKILL
                self.used = []
        return self.returncode


def start(
    command: list[str], environment: dict[str, str], log: int, lock: int
) -> Fork | NewProcess:
    """Start a command as a `Fork` if it can be one, and else as a `NewProcess`.

    command: a program, and its arguments.
    environment: all its variables.
    log: the open file that it writes into.
    lock: an open file that it inherits.
    """
    step = step_of(command)
    if IMPORTS.get(step):
        try:
            return ask_for_fork(step, command[2:], environment, log, lock)
        except (OSError, ValueError):  # there is no server, or it is silent, or it refuses
            pass
    return NewProcess(command, env=environment, pass_fds=[lock], stdout=log, stderr=log)


def step_of(command: list[str]) -> str | None:
    """The step that a command `python -m PACKAGE.STEP ...` runs; None of another command."""
    if len(command) < 3 or command[:2] != ["python", "-m"]:
        return None
    return command[2].rpartition(".")[2]


def ask_for_fork(
    step: str, words: list[str], environment: dict[str, str], log: int, lock: int
) -> Fork:
    """Ask the server for a fork. Raises OSError or ValueError if the server gives no fork.

    words: the module and its arguments.
    """
    keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        place = os.environ.get(SOCKET, "")
        _, _, server, *_ = place.split("/")
        keeper.settimeout(SILENCE)
        keeper.connect(place)
        keeper.send(step.encode())
        request = json.dumps([inherited(), environment, str(Path.cwd()), words])
        socket.send_fds(keeper, [request.encode()], [0, log, log, lock])
        pid = int(answer_of(int(server), keeper))
        return Fork(keeper, pid)
    except (OSError, ValueError):
        keeper.close()  # left to Python, its warning of an open socket would swallow a signal
        raise


def answer_of(server: int, keeper: socket.socket) -> bytes:
    """What is answered to a request; empty if the server refuses it, or has ended.

    Raises TimeoutError if the server is silent. It is killed then, so that no other job of the run
    waits for it. The forks that it has made go on.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done = work_of(server)
        with suppress(TimeoutError):
            return keeper.recv(MOST)
        if work_of(server) == done:
            break
    os.kill(server, signal.SIGKILL)
    raise TimeoutError


def work_of(process: int) -> list[str]:
    """The page faults and the time of the processor that a process has had."""
    stat = Path(f"/proc/{process}/stat").read_text()
    return stat.rpartition(")")[2].split()[7:13]


def inherited() -> list:
    """The properties that this process has from its parent, beside files and environment.

    The process group, the niceness, and the lines of /proc for rights, limits and control groups.
    """
    files = [Path("/proc/self", name) for name in ("status", "limits", "cgroup")]
    text = "".join(file.read_text() for file in files)
    return [os.getpgrp(), os.nice(0), *INHERITED.findall(text)]


def main() -> None:
    """Be the server. Each fork of it comes out of `serve`, and each job out of `keep`."""
    client = serve(socket.socket(fileno=int(sys.argv[1])))
    if client is not None:
        environment, folder, words = keep(client)
        run(environment, folder, words)


def serve(listener: socket.socket) -> socket.socket | None:
    """Fork for each client, until stdin ends. Returns the client in a fork, and None at the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    while True:
        readable, _, _ = select.select([listener, STDIN], [], [])
        if STDIN in readable:
            return None
        client, _ = listener.accept()
        client.settimeout(FIRST_WORD)
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


def keep(client: socket.socket) -> tuple[dict[str, str], str, list[str]]:
    """Fork once more, for the job. Returns the arguments of `run` in that fork.

    This process is the keeper: it waits for the job, tells the client how it ended, and ends. It
    ends at once if the job must be a new process.
    """
    client.settimeout(CLIENT_PATIENCE)
    content, files, _, _ = socket.recv_fds(client, MOST, 8)
    state, environment, folder, words = json.loads(content)
    if must_be_new(state, environment):
        os._exit(1)
    child = os.fork()
    if child == 0:
        begin(client, files)
        return environment, folder, words
    for file in files:  # the lock is the fork's
        os.close(file)
    tell_end(client, child)
    os._exit(0)


def must_be_new(state: list, environment: dict[str, str]) -> bool:
    """Whether a fork of this process would differ from a new process.

    state: what the job has `inherited`.
    environment: of the job.
    """
    if state != inherited():
        return True
    for name, value in environment.items():
        if os.environ.get(name) != value and not FREE.fullmatch(name):
            return True
    threads = {value for name, value in environment.items() if name.endswith(THREADS)}
    if len(threads) != 1:  # a library would have other threads than `run` gives to all
        return True
    # Whether the server has used CUDA, such as by an import of another version.
    return sys.modules["torch"].cuda._is_in_bad_fork()


def begin(client: socket.socket, files: list[int]) -> None:
    """Make this process a job, with signals and open files of its own. It ends with its keeper.

    It also ends if the client no longer waits for it.
    """
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


def tell_end(client: socket.socket, child: int) -> None:
    """Wait for a job, and tell the client how it ended and what it used."""
    _, status, used = os.wait4(child, 0)
    answer = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]
    with suppress(OSError):  # the client may have been killed
        client.send(json.dumps(answer).encode())


def run(environment: dict[str, str], folder: str, words: list[str]) -> None:
    """Do what `cd FOLDER; python -m WORDS` does in an environment."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    sys.path.insert(0, folder)
    step = words[0].rpartition(".")[2]
    ctypes.CDLL(None).prctl(PR_SET_NAME, step.encode())
    tempfile.tempdir = None  # it may be another one
    seed()
    set_threads(int(environment["OMP_NUM_THREADS"]))
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def seed() -> None:
    """Seed numpy and torch afresh, as in a new process. Python itself does so at each fork."""
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].seed()


def set_threads(number: int) -> None:
    """Give torch and numpy their threads. numpy's OpenBLAS reads the variable only at its start."""
    sys.modules["torch"].set_num_threads(number)
    blas = ctypes.CDLL(sys.modules["numpy"]._core._multiarray_umath.__file__)
    if hasattr(blas, SET_BLAS_THREADS):
        set_blas_threads = getattr(blas, SET_BLAS_THREADS)
        set_blas_threads(min(number, len(os.sched_getaffinity(0))))


if __name__ == "__main__":
    main()
