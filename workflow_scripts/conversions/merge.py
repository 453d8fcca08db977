"""Steps 5 and 7: mixing coefficients, and the dense weights that result from them.

For each tensor of the MLP, W = c_0 W_0 + sum_i c_i W_i with c_0 = lambda and
c_i = (1 - lambda) softmax(alpha)_i. W_0 is the shared expert, and i counts the routed experts (XFT,
arXiv 2404.15247, section 3.2). If lambda is learned too, lambda = sigmoid(lambda_logit).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from workflow_scripts.checkpoints.layout import FfnLayer, moe_layers, outside
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.conversions.common import copy_plan

ALPHA = "alpha"
LAMBDA_LOGIT = "lambda_logit"
SMALLEST_SHARE = 1e-6  # at the start, so that the logit of an expert without use is finite
MERGE_BLOCK = 2**19  # values; their sum (2 MB) stays in a CPU's cache while experts are added


def mixing_coefficients(alpha, lambda_logit, shared_expert_weight: float):
    """c_0 (shared) and c_1 .. c_R: [..., 1 + R] in fp32, summing to one.

    alpha [..., R]; lambda_logit [...], or None for the fixed lambda `shared_expert_weight`.
    """
    import torch

    if lambda_logit is None:
        share = alpha.new_full(alpha.shape[:-1], shared_expert_weight, dtype=torch.float32)
    else:
        share = lambda_logit.float().sigmoid()
    share = share.unsqueeze(-1)
    return torch.cat([share, (1 - share) * alpha.float().softmax(dim=-1)], dim=-1)


def alpha_shape(granularity: str, ffn: Checkpoint) -> tuple[int, int, int]:
    """The shape of the mixing logits: R logits per layer, per projection, or for the model."""
    layers = moe_layers(ffn.names)
    first = layers[0]
    num_routed_experts = ffn.shape(first.experts_out())[0]
    sets = {
        "layer": (len(layers), 1),
        "projection": (len(layers), len(first.form.projections)),
        "model": (1, 1),
    }
    return (*sets[granularity], num_routed_experts)


def initial_logits(
    ffn: Checkpoint,
    granularity: str,
    shared_expert_weight: float,
    learn_lambda: bool,
    shares=None,
) -> dict:
    """The logits for the experts of an FFN artifact at the start, and lambda's if it is learned.

    shares [layers, R]: of the routed experts in each layer; None for equal ones.
    """
    import torch

    shape = alpha_shape(granularity, ffn)
    alpha = torch.zeros(shape) if shares is None else logits_of_shares(shares, shape)
    logits = {ALPHA: alpha}
    if learn_lambda:
        lambda_logit = torch.tensor(shared_expert_weight, dtype=torch.float64).logit()
        logits[LAMBDA_LOGIT] = lambda_logit.float().repeat(shape[:2])
    return logits


def logits_of_shares(shares, shape: tuple[int, int, int]):
    """alpha = log(max(share, SMALLEST_SHARE)) in fp32, of a shape of `alpha_shape`.

    shares [layers, R]. The projections of a layer have the same logits. One set for the whole model
    has the mean shares of the layers.
    """
    if shape[0] == 1:
        shares = shares.mean(dim=0, keepdim=True)
    alpha = shares.clamp(min=SMALLEST_SHARE).log().float()
    return alpha[:, None].repeat(1, shape[1], 1)


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged model: its experts' names, and the place of its coefficients.

    row, column: the place in the coefficients [layers or 1, projections or 1, 1 + R].
    """

    layer: FfnLayer
    projection: str
    part: str
    row: int
    column: int

    @property
    def name(self) -> str:
        return self.layer.dense(self.projection, self.part)

    def shared(self, ffn: Checkpoint):
        """The shared expert's tensor, memory-mapped."""
        return ffn.get(self.layer.shared(self.projection, self.part))

    def routed(self, ffn: Checkpoint):
        """The routed experts' tensors [R, ...], memory-mapped."""
        form = self.layer.form
        if self.projection == form.output:
            return ffn.get(self.layer.experts_out(self.part))
        fused = ffn.get(self.layer.experts_in(self.part))
        return fused.chunk(len(form.inputs), dim=1)[form.inputs.index(self.projection)]

    def experts(self, ffn: Checkpoint) -> Iterable:
        """The shared expert's tensor, then each routed expert's, memory-mapped."""
        yield self.shared(ffn)
        yield from self.routed(ffn)

    def coefficients(self, coefficients):
        """This tensor's coefficients [1 + R], from those of the whole model."""
        return coefficients[self.row, self.column]


def merged_tensors(ffn: Checkpoint, shape: tuple[int, ...]) -> list[MergedTensor]:
    """All tensors to merge, in layer order, for coefficients of this shape."""
    return [
        MergedTensor(
            layer,
            projection,
            part,
            row if shape[0] > 1 else 0,
            layer.form.projections.index(projection) if shape[1] > 1 else 0,
        )
        for row, layer in enumerate(moe_layers(ffn.names))
        for projection, part in layer.tensors
    ]


def merge(experts: Iterable, coefficients):
    """sum_i c_i W_i in fp32, on the coefficients' device.

    experts: 1 + R tensors of the same shape, of any dtype; coefficients [1 + R].
    """
    import torch

    device = coefficients.device
    experts, shares = list(experts), coefficients.tolist()
    merged = torch.empty(experts[0].shape, dtype=torch.float32, device=device)
    size = MERGE_BLOCK if device.type == "cpu" else max(merged.numel(), 1)
    parts = [expert.reshape(-1).split(size) for expert in experts]
    for block, *own in zip(merged.view(-1).split(size), *parts, strict=True):
        block.copy_(own[0]).mul_(shares[0])
        for part, share in zip(own[1:], shares[1:], strict=True):
            block.add_(part.to(device), alpha=share)
    return merged


def merge_plans(moe: Checkpoint, ffn: Checkpoint, coefficients) -> list[TensorPlan]:
    """Plan the dense model: merged MLPs, rounded once, and the mixture's other tensors.

    coefficients: from `mixing_coefficients`, [layers or 1, projections or 1, 1 + R].
    """
    plans = [copy_plan(moe, name) for name in outside(moe.names, moe_layers(ffn.names))]
    for tensor in merged_tensors(ffn, coefficients.shape):
        plans.append(_merged_plan(ffn, tensor, tensor.coefficients(coefficients)))
    return plans


def _merged_plan(ffn: Checkpoint, tensor: MergedTensor, coefficients) -> TensorPlan:
    source = tensor.layer.shared(tensor.projection, tensor.part)

    def compute() -> list:
        merged = merge(tensor.experts(ffn), coefficients)
        return [merged.to(tensor.shared(ffn).dtype)]

    return TensorPlan(tensor.name, ffn.dtype(source), ffn.shape(source), compute)
