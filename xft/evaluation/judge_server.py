"""Forks a process for each trial that comes, which judges it within limits and ends.

    python judge_server.py CONFINED MEMORY_BYTES SECONDS

Standard input is a socket. Each byte on it brings two descriptors: a file of `trial`, and a pipe
for the outcome as JSON. A process holds the values of its own trial alone, and can open no file and
no socket. It is killed after SECONDS of processor time, or `PATIENCE` times as long on the clock.
If CONFINED is 1, it has only the system calls of `confinement`. The server ends when the socket is
closed.
"""

import json
import os
import resource
import signal
import socket
import sys
from dataclasses import astuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import evalplus.eval  # noqa: F401 (judging needs it, and a trial's process can import nothing)

from xft.evaluation.comparison import judge
from xft.evaluation.confinement import end_with_parent, forbid_system_calls, limit_resources

PATIENCE = 4  # seconds on the clock for each second of processor time


def main() -> None:
    confined, memory, seconds = map(int, sys.argv[1:])
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


def limit(confined: bool, memory: int, seconds: int) -> None:
    """Limit this process."""
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


if __name__ == "__main__":
    main()
