"""Has programs judged by a server, which takes a process of its own for each of them."""

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from xft.common.errors import UserError
from xft.evaluation.comparison import Outcome
from xft.evaluation.workers import Stop, Stopped

SERVER = Path(__file__).with_name("judge_server.py")
MEMORY_BYTES = 2 * 2**30  # of address space, for one trial
SECONDS = 30  # of processor time, for one trial; EvalPlus's problems need less than 0.1
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
        command = [sys.executable, "-P", "-B", "-W", "ignore", SERVER, *limits]
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
