"""Measures how much a tuned mixture uses each of its routed experts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xft.common.progress import progress


@torch.no_grad()
def gate_shares(model, rows: Sequence[Sequence[int]]) -> Tensor:
    """The share of each routed expert in the gate values of its layer, fp64 [layers, R].

    u_i = sum_x g_i(x) / sum_j sum_x g_j(x), over all tokens x of all rows. g_i(x) is the gate s_i
    of `Router.route` if expert i is chosen for x, else 0.

    model: an upcycled model in evaluation mode, so without noise in its routers. rows:
    token ids. Each is a batch of its own, so nothing is padded.
    """
    sums = torch.zeros(())
    for row in progress(rows, desc="measure", unit="row"):
        ids = torch.tensor([row], device=model.device)
        routings = model(input_ids=ids, use_cache=False, logits_to_keep=1).routing
        sums = sums + torch.stack([routing.importance.double().cpu() for routing in routings])
    return sums / sums.sum(dim=-1, keepdim=True)
