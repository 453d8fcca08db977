"""Has programs judged by a server, which takes a process of its own for each of them.

The server forks a process for each trial that comes, which judges it within limits and ends. Such a
process holds the values of its own trial alone, and can open no file and no socket.
"""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO

from xft.common.errors import UserError
from xft.evaluation.comparison import Outcome, judge
from xft.evaluation.confinement import end_with_parent, forbid_system_calls, limit_resources
from xft.evaluation.scoring import Stop, Stopped

PROJECT = str(Path(__file__).parents[2])
SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from xft.evaluation import judges as j; "
SERVE += "j.serve(*map(int, sys.argv[2:]))"
MEMORY_BYTES = 2 * 2**30  # of address space, for one trial
SECONDS = 30  # of processor time, for one trial; EvalPlus's problems need less than 0.1
PATIENCE = 4  # seconds on the clock for each second of processor time
REPLY_BYTES = 2**10
# Threads do not survive a fork.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
ENDED = (
    "the process that judges solutions has ended. Free memory and processes, and run the same "
    "command again: the solutions are saved"
)


class Judges:
    """Judges trials in processes while the context is open, from any thread.

    confined: whether the processes have only the system calls of `confinement`.
    """

    def __init__(self, confined: bool):
        self._confined = confined

    def __enter__(self) -> "Judges":
        self._control, theirs = socket.socketpair()
        limits = map(str, (int(self._confined), MEMORY_BYTES, SECONDS))
        command = [sys.executable, "-P", "-B", "-W", "ignore", "-c", SERVE, PROJECT, *limits]
        options = {"env": os.environ | ENVIRONMENT, "start_new_session": True}
        with theirs:
            self._server = subprocess.Popen(command, stdin=theirs, **options)
        return self

    def __exit__(self, *_) -> None:
        self._control.close()
        self._server.kill()
        self._server.wait()

    def outcome(self, trial: BinaryIO, stop: Stop) -> Outcome | None:
        """Judge a file of `trial`, from its beginning; None if that takes more than the limits.

        Raises Stopped once `stop` is readable, and UserError if the server has ended.
        """
        trial.seek(0)
        reader, writer = map(os.fdopen, os.pipe(), "rw")
        with reader:
            try:
                with writer:
                    socket.send_fds(self._control, [b"\n"], [trial.fileno(), writer.fileno()])
            except ConnectionError:
                raise UserError(ENDED) from None
            if stop in select.select([reader, stop], [], [])[0]:
                raise Stopped
            reply = os.read(reader.fileno(), REPLY_BYTES)
        if not reply and self._server.poll() is not None:
            raise UserError(ENDED)
        return Outcome(*json.loads(reply)) if reply else None


def serve(confined: int, memory: int, seconds: int) -> None:
    """Judge what comes on standard input, a socket, until it is closed.

    Each byte on it brings two descriptors: a file of `trial`, and a pipe for the outcome as JSON.
    confined, memory, seconds: as for `limit`.
    """
    import evalplus.eval  # noqa: F401 (judging needs it, and a trial's process can import nothing)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes the processes that end
    control = socket.socket(fileno=0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            try:
                limit(confined, memory, seconds)
                answer(*descriptors)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def limit(confined: int, memory: int, seconds: int) -> None:
    """Limit this process.

    confined: whether it has only the system calls of `confinement`.
    memory: bytes of address space.
    seconds: of processor time, and `PATIENCE` times as many on the clock.
    """
    end_with_parent()
    signal.alarm(PATIENCE * seconds)
    limit_resources(memory, files=0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if confined:
        forbid_system_calls()


def answer(trial: int, channel: int) -> None:
    """Judge a trial, and write its outcome."""
    with os.fdopen(trial, "rb") as file:
        os.write(channel, json.dumps(astuple(judge(file))).encode())
