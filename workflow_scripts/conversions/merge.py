"""Steps 5 and 7: mixing coefficients, and the dense weights that they give.

W = lambda W_0 + (1 - lambda) sum_i softmax(alpha)_i W_i over the routed experts i, for each
projection; W_0 is the shared expert (XFT, arXiv 2404.15247, section 3.2).
"""

from workflow_scripts.checkpoints.layout import PROJECTIONS, FfnLayer, moe_layers
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.conversions.common import copy_plan

ALPHA = "alpha"


def alpha_shape(granularity: str, num_layers: int, num_routed_experts: int) -> tuple[int, int, int]:
    """The shape of the mixing logits: R of them for each layer, each projection, or the model."""
    sets = {"layer": (num_layers, 1), "projection": (num_layers, 3), "model": (1, 1)}
    return (*sets[granularity], num_routed_experts)


def alpha_place(shape: tuple[int, int, int], layer: int, projection: str) -> tuple[int, int]:
    """Where in alpha of this shape the R logits of a layer's projection stand."""
    layers, projections, _ = shape
    which = PROJECTIONS.index(projection)
    return (layer if layers > 1 else 0, which if projections > 1 else 0)


def initial_alpha_plan(ffn: Checkpoint, granularity: str) -> TensorPlan:
    """Plan equal logits (zero) for the experts of an FFN artifact."""
    import torch

    layers = moe_layers(ffn.names)
    shape = alpha_shape(granularity, len(layers), ffn.shape(layers[0].gate_up)[0])
    return TensorPlan(ALPHA, "F32", shape, lambda: [torch.zeros(shape)])


def routed_experts(ffn: Checkpoint, layer: FfnLayer, projection: str):
    """The routed experts' weights [R, out, in] of one projection, as a memory-mapped view."""
    if projection == "down_proj":
        return ffn.get(layer.down)
    gate_up = ffn.get(layer.gate_up)
    half = gate_up.shape[1] // 2
    return gate_up[:, :half] if projection == "gate_proj" else gate_up[:, half:]


def merge(shared, experts, alpha, shared_expert_weight: float):
    """The merged weight [out, in] in fp32.

    shared [out, in] and experts [R, out, in] of any dtype, alpha [R].
    """
    shares = (1 - shared_expert_weight) * alpha.float().softmax(dim=0)
    merged = shared_expert_weight * shared.float()
    for share, expert in zip(shares, experts, strict=True):
        merged = merged + share * expert.float()
    return merged


def merge_plans(
    moe: Checkpoint, ffn: Checkpoint, alpha, shared_expert_weight: float
) -> list[TensorPlan]:
    """Plan the dense model: merged FFN weights, rounded once, and all else from the mixture."""
    plans = [copy_plan(moe, name) for name in moe.names if ".mlp." not in name]
    for position, layer in enumerate(moe_layers(ffn.names)):
        for projection in PROJECTIONS:
            logits = alpha[alpha_place(alpha.shape, position, projection)]
            plans.append(_merged_plan(ffn, layer, projection, logits, shared_expert_weight))
    return plans


def _merged_plan(
    ffn: Checkpoint, layer: FfnLayer, projection: str, alpha, shared_expert_weight: float
) -> TensorPlan:
    name = layer.shared(projection)

    def compute() -> list:
        shared = ffn.get(name)
        experts = routed_experts(ffn, layer, projection)
        return [merge(shared, experts, alpha, shared_expert_weight).to(shared.dtype)]

    return TensorPlan(layer.dense(projection), ffn.dtype(name), ffn.shape(name), compute)
