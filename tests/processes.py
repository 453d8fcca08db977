"""Steps and functions in processes of their own, which may train together."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from inspect import getfile
from pathlib import Path

import torch
from chains import run_here
from fork_server import PYTHON
from interpreter import ROOT

CALL = "import sys; from {0.__module__} import {0.__name__}; {0.__name__}(*sys.argv[1:])"


def run_for(step: str, words: list[str], count: int = 1) -> str:
    """Run a step to its end, in `count` processes that train together. It must end well.

    Returns what the processes say.
    """
    return run_together(run_step, count, step, *words)


def run_together(body: Callable, count: int, *words: str, status: int = 0) -> str:
    """Call a function in processes that train together. All must end with this status.

    Returns what the processes say.

    The processes are forks of the server, which has no threads. The test uses the fixture
    `fork_server`.
    """
    folder = Path(getfile(body)).parent
    options = {"env": os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests:{folder}"}}
    if count > 1:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        options["env"] |= place | {"WORLD_SIZE": str(count)}
    with tempfile.TemporaryFile("w+") as log:
        processes = []
        for rank in map(str, range(count)):
            if count > 1:
                options["env"] |= {"RANK": rank, "LOCAL_RANK": rank}
            command = [PYTHON, "-c", CALL.format(body), *words]
            processes.append(subprocess.Popen(command, stderr=log, **options))
        ends = {process.wait() for process in processes}
        log.seek(0)
        said = log.read()
    assert ends == {status}, said
    return said


def run_step(step: str, *words: str) -> None:
    torch.set_num_threads(1)
    if "fsdp" in words and not torch.cuda.is_available():
        from fsdp_on_cpus import use_fsdp_on_cpus

        use_fsdp_on_cpus()
    run_here(step, words)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
