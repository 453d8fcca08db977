"""Moves the experts of each layer towards each other after an optimiser step.

EWA (arXiv 2308.06093): W_i <- (1 - b) W_i + b / (E - 1) sum_{j != i} W_j, for all E experts at
once, the shared one included.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from xft.checkpoints.layout import find_form
from xft.modeling.moe import MoeBlock


class ExpertAveraging(TrainerCallback):
    """Averages a mixture's experts by the share `beta` after each optimiser step.

    It has no state. Each process must have the whole weights, which are then the same in all.
    """

    def __init__(self, beta: float):
        self.beta = beta

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        for block in model.moe_blocks:
            for experts in expert_tensors(block):
                average(experts, self.beta)


@torch.no_grad()
def average(experts: Sequence[Tensor], beta: float) -> None:
    """Apply the equation to E >= 2 tensors of one shape, in place. It is computed in fp32 or more.

    With D_i = W_i - W_0 it is W_i += b / (E - 1) (sum_j D_j - E D_i). So equal experts stay as they
    are, and the temporary memory does not grow with E.
    """
    first, *others = experts
    wide = torch.promote_types(first.dtype, torch.float32)
    total = torch.zeros_like(first, dtype=wide)
    for other in others:
        total += other.to(wide) - first
    share = beta / len(others)
    for other in others:
        difference = other.to(wide) - first
        other.copy_(other + share * (total - len(experts) * difference))
    first.copy_(first + share * total)  # last: the others need its old value


def expert_tensors(block: MoeBlock) -> Iterator[list[Tensor]]:
    """For each weight and bias of a block's MLPs, the tensors of all experts.

    They are the parameters' own memory. The shared expert, if there is one, comes first.
    """
    fused = {name: tensor.detach() for name, tensor in block.experts.named_parameters()}
    if block.shared_expert is None:
        yield from (list(tensor.unbind()) for tensor in fused.values())
        return
    children = block.shared_expert.named_children()
    form = find_form(name for name, child in children if isinstance(child, nn.Linear))
    for name, tensor in fused.items():
        part = "bias" if name.endswith("_bias") else "weight"
        projections = (form.output,) if name.startswith("down_proj") else form.inputs
        pieces = tensor.chunk(len(projections), dim=1)
        for projection, piece in zip(projections, pieces, strict=True):
            own = block.shared_expert.get_parameter(f"{projection}.{part}")
            yield [own.detach(), *piece.unbind()]
