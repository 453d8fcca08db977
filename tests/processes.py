"""Steps in processes of their own that are killed at a given moment."""

import importlib
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import torch

# A server without threads forks each process: a fork of the tests' own process, with the threads
# that earlier tests left in it, may wait for ever for a lock that none of its threads holds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["transformers.models.llama.modeling_llama", "xft.training.trainer"]
)


def run_for(step: str, words: list[str], seconds: float | None = None, count: int = 1) -> bool:
    """Run a step, in `count` processes that train together; kill them after so many seconds.

    Whether it ended by itself, which must be well.
    """
    port = free_port() if count > 1 else None
    with tempfile.NamedTemporaryFile() as log:
        processes = [
            PROCESSES.Process(target=run_step, args=(step, words, log.name, rank, count, port))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        deadline = None if seconds is None else time.monotonic() + seconds
        for process in processes:
            process.join(None if deadline is None else max(0, deadline - time.monotonic()))
        for process in processes:
            process.kill()  # nothing, if it has ended
            process.join()
        codes = {process.exitcode for process in processes}
        assert codes == {0} or -signal.SIGKILL in codes, Path(log.name).read_text()
    return codes == {0}


def run_apart(step: str, words: list[str]) -> None:
    """Run a step in a process of its own to its end."""
    assert run_for(step, words)


def run_step(
    step: str, words: list[str], log: str, rank: int, count: int, port: int | None
) -> None:
    """The body of a process: the step's main, with one thread. What it says is added to a file."""
    if "fsdp" in words:
        from fsdp_on_cpus import use_fsdp_on_cpus

        use_fsdp_on_cpus()
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 2)
    importlib.import_module(f"workflow_scripts.{step}").main(words)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
