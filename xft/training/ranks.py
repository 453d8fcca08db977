"""The place of this process among those of a training, and sums over all of them."""

import os

from xft.common.progress import say


def is_main_process() -> bool:
    """Whether this process prints and writes for all processes of the training."""
    return os.environ.get("RANK", "0") == "0"


def say_once(text: str) -> None:
    """Print a line for all processes of the training."""
    if is_main_process():
        say(text)


def device() -> str:
    """The device of this process: its own GPU, or the CPU on a machine without one."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def over_processes(values, operation: str = "SUM"):
    """The sum, or the "MAX", of a tensor's values over the processes. All processes call this."""
    import torch.distributed

    if torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values, getattr(torch.distributed.ReduceOp, operation))
    return values
