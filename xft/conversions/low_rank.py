"""Low-rank experts in step 1.

Expert i of a projection is W_i = W + s B_i A_i, with the base's W [N, K] and s = lora_alpha / rank
(LoRA, arXiv 2106.09685; of experts: MixLoRA, arXiv 2404.15159). At the start B_i = 0, and A_i is
uniform between +-1/sqrt(K), as PEFT draws it.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial

from xft.checkpoints.dtypes import torch_dtype
from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorPlan
from xft.config.sections import MoeConfig
from xft.conversions.common import copy_plan, seeded_generator


def low_rank_plans(
    base: Checkpoint, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorPlan]:
    """Plan the base's MLP and the factors of a layer's experts.

    The draws of an expert's A depend on the seed, the tensor's name and the expert's number.
    """
    for tensor in layer.tensors:
        yield copy_plan(base, layer.dense(*tensor), layer.frozen(*tensor))
    for projection in layer.form.projections:
        weight = layer.dense(projection)
        dtype, (outputs, inputs) = base.dtype(weight), base.shape(weight)
        name, shape = layer.factor(projection, "A"), (moe.num_experts, moe.rank, inputs)
        yield TensorPlan(name, dtype, shape, partial(_drawn, name, dtype, shape, seed))
        name, shape = layer.factor(projection, "B"), (moe.num_experts, outputs, moe.rank)
        yield TensorPlan(name, dtype, shape, partial(_zeros, dtype, shape))


def _drawn(name: str, dtype: str, shape: tuple[int, ...], seed: int) -> Iterator:
    """The factor A of each expert, drawn in fp32 and rounded once."""
    import torch

    bound = 1 / math.sqrt(shape[-1])
    for expert in range(shape[0]):
        generator = seeded_generator(seed, f"{name}.{expert}")
        drawn = torch.empty(shape[1:]).uniform_(-bound, bound, generator=generator)
        yield drawn.to(torch_dtype(dtype))


def _zeros(dtype: str, shape: tuple[int, ...]) -> Iterator:
    """The factor B of each expert."""
    import torch

    for _ in range(shape[0]):
        yield torch.zeros(shape[1:], dtype=torch_dtype(dtype))
