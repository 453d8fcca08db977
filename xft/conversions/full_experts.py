"""Writes the low-rank experts of a mixture out as full ones: W_i = W + s B_i A_i."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice

from xft.checkpoints.dtypes import torch_dtype
from xft.checkpoints.layout import FfnLayer, moe_layers, outside
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorPlan
from xft.common.errors import UserError
from xft.conversions.common import copy_plan, fused_plan
from xft.conversions.merged_tensors import LowRankTensor, merged_tensors


def full_config(moe: Checkpoint) -> dict:
    """The config.json of the mixture with full experts.

    Raises UserError if its experts are full already.
    """
    if moe.config.get("experts") != "lora":
        raise UserError(f"{moe.folder}: its experts are full already. Use it as it is")
    return moe.config | {"experts": "full"}


def full_plans(moe: Checkpoint) -> list[TensorPlan]:
    """Plan the same mixture with full experts. Each is computed in fp32, and rounded once.

    moe: a mixture with low-rank experts, with or without a shared one.
    """
    layers = moe_layers(moe.names)
    tensors = {tensor.name: tensor for tensor in merged_tensors(moe, moe, (1, 1))}
    plans = [copy_plan(moe, name) for name in outside(moe.names, layers)]
    for layer in layers:
        own = {name: tensors[layer.dense(name)] for name in layer.form.projections}
        plans += _expert_plans(moe, layer, own)
        routers = (name for name in moe.names if name.startswith(f"{layer.prefix}.router."))
        plans += [copy_plan(moe, name) for name in routers]
    return plans


def _expert_plans(
    moe: Checkpoint, layer: FfnLayer, tensors: dict[str, LowRankTensor]
) -> Iterable[TensorPlan]:
    """The experts of a layer, with the base's biases, if it has any. tensors: by projection."""
    shared = int(moe.config["shared_expert"])
    routed = moe.config["num_experts"] - shared
    for name, tensor in tensors.items() if shared else ():
        chunks = partial(_rounded, [tensor], slice(1))
        yield TensorPlan(layer.shared(name), tensor.dtype, tensor.shape, chunks)
    for name, projections in layer.fused():
        parts = [tensors[projection] for projection in projections]
        shape = routed, sum(tensor.shape[0] for tensor in parts), parts[0].shape[1]
        chunks = partial(_rounded, parts, slice(shared, None))
        yield TensorPlan(name, parts[0].dtype, shape, chunks)
    if "bias" in layer.parts:
        for name in tensors if shared else ():
            yield copy_plan(moe, layer.frozen(name, "bias"), layer.shared(name, "bias"))
        for name, projections in layer.fused("bias"):
            frozen = [layer.frozen(projection, "bias") for projection in projections]
            yield fused_plan(moe, name, frozen * routed, routed)


def _rounded(tensors: list[LowRankTensor], chosen: slice) -> Iterator:
    """The chosen experts: the tensors of one, then those of the next."""
    experts = zip(*(tensor.experts() for tensor in tensors), strict=True)
    for expert in chain.from_iterable(islice(experts, chosen.start, chosen.stop)):
        yield expert.to(torch_dtype(tensors[0].dtype))
