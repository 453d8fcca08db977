"""LoRA experts in step 1.

Expert i of a projection is W_i = W + s B_i A_i, with the base's W [N, K] and s = lora_alpha / rank
(LoRA, arXiv 2106.09685; of experts: MixLoRA, arXiv 2404.15159). At the start B_i = 0, and A_i is
uniform between +-1/sqrt(K), as PEFT draws it.
"""

import math
from collections.abc import Iterable
from functools import partial

from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec
from xft.config.sections import MoeConfig
from xft.conversions.common import computed_plan, copy_plan, seeded_generator


def low_rank_plans(
    base: TensorSource, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorSpec]:
    """Plan the base's MLP and the factors of a layer's experts.

    The draws of an expert's A depend on the seed, the tensor's name and the expert's number.
    """
    for tensor in layer.tensors:
        yield copy_plan(base, layer.dense(*tensor), layer.frozen(*tensor))
    for projection in layer.form.projections:
        weight = layer.dense(projection)
        dtype, (outputs, inputs) = base.dtype(weight), base.shape(weight)
        name, shape = layer.factor(projection, "A"), (moe.num_experts, moe.rank, inputs)
        yield computed_plan(name, dtype, shape, partial(_drawn, name, shape, seed))
        name, shape = layer.factor(projection, "B"), (moe.num_experts, outputs, moe.rank)
        yield computed_plan(name, dtype, shape, partial(_zeros, shape))


def _drawn(name: str, shape: tuple[int, ...], seed: int):
    """The factor A of all experts, in fp32."""
    import torch

    bound, drawn = 1 / math.sqrt(shape[-1]), torch.empty(shape)
    for expert, values in enumerate(drawn):
        values.uniform_(-bound, bound, generator=seeded_generator(seed, f"{name}.{expert}"))
    return drawn


def _zeros(shape: tuple[int, ...]):
    import torch

    return torch.zeros(shape)
