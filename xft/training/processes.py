"""Sums over the processes of a training."""

import torch.distributed
from torch import Tensor


def over_processes(values: Tensor, operation=torch.distributed.ReduceOp.SUM) -> Tensor:
    """The sum, or another reduction, of the processes' values. All processes call this."""
    if torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values, operation)
    return values
