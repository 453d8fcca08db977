"""Steps and functions in processes of their own, which may train together."""

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from chains import run_here

# A server without threads forks each process: a fork of the tests' own process, with the threads
# that earlier tests left in it, may wait for ever for a lock that none of its threads holds.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["transformers.models.llama.modeling_llama", "xft.training.trainer", "deepspeed"]
PROCESSES.set_forkserver_preload(PRELOADED)


def run_for(step: str, words: list[str], count: int = 1) -> bool:
    """Run a step to its end, in `count` processes that train together. True: it must end well."""
    return run_together(run_step, count, step, words)


def run_together(body: Callable, count: int, *arguments) -> bool:
    """Call a function in processes that train together. True: it must end well."""
    port = free_port() if count > 1 else None
    with tempfile.NamedTemporaryFile() as log:
        about = (log.name, count, port, body, *arguments)
        processes = [PROCESSES.Process(target=run_as, args=(rank, *about)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert {process.exitcode for process in processes} == {0}, Path(log.name).read_text()
    return True


def run_as(rank: int, log: str, count: int, port: int | None, body: Callable, *arguments) -> None:
    """Call a function, with one thread. What it says is added to a file."""
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 2)
    body(*arguments)


def run_step(step: str, words: list[str]) -> None:
    if "fsdp" in words:
        from fsdp_on_cpus import use_fsdp_on_cpus

        use_fsdp_on_cpus()
    run_here(step, words)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
