"""ExFusion (arXiv 2603.27965): experts that are fused into one MLP in every forward pass.

E experts have W_i for each matrix W of an MLP, and the MLP computes with

    W = sum_i s_i W_i,  s = softmax(a),

where all matrices of an MLP share the logits a [E], which start at zero. The experts start at
W_i = W + d_i - mean(d), where d_i is the difference of an expert of `conversions.expert_init`. So
the model starts as the base, within rounding error. Only the abstract of the paper was available:
start, softmax and the matrices that share a logit are this project's choice.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers import PreTrainedModel

from xft.config.sections import ExfusionConfig
from xft.conversions.expert_init import varied
from xft.modeling.mlp import read_mlp

EXPERTS, LOGITS = "parametrizations.weight.original", "parametrizations.weight.0.logits"


class FusedExperts(nn.Module):
    """The parametrisation of a linear layer's weight [N, K] by those of E experts [E, N, K]."""

    def __init__(self, logits: nn.Parameter, experts: Tensor):
        super().__init__()
        self.logits = logits
        self.experts = experts

    def forward(self, experts: Tensor) -> Tensor:
        with torch.autocast(experts.device.type, enabled=False):
            return fuse(self.logits, experts)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The experts at the start."""
        experts, self.experts = self.experts, None
        return experts


class Fusion:
    """The fused experts of a model, in place of the weights of its MLPs. Biases stay as they are.

    The seed decides the experts. Raises UserError if an MLP cannot be upcycled.
    """

    def __init__(self, model: PreTrainedModel, options: ExfusionConfig, seed: int):
        names = {module: name for name, module in model.named_modules()}
        self._layers: list[str] = []
        for number, layer in enumerate(model.get_decoder().layers):
            for linear, parametrization in _fused_layers(layer.mlp, number, options, seed):
                register_parametrization(linear, "weight", parametrization)
                self._layers.append(names[linear])

    def merged(self, learned: dict[str, Tensor]) -> dict[str, Tensor]:
        """The learned tensors by name, with fused weights in place of the experts."""
        others, merged = dict(learned), {}
        for name in self._layers:
            logits, experts = (others.pop(f"{name}.{part}") for part in (LOGITS, EXPERTS))
            merged[f"{name}.weight"] = fuse(logits, experts)
        return others | merged


def fuse(logits: Tensor, experts: Tensor) -> Tensor:
    """sum_i softmax(logits)_i experts_i, for logits [E] and experts [E, N, K]: [N, K]."""
    return torch.tensordot(logits.float().softmax(0).to(experts.dtype), experts, 1)


@torch.no_grad()
def _fused_layers(
    mlp: nn.Module, number: int, options: ExfusionConfig, seed: int
) -> Iterator[tuple[nn.Linear, FusedExperts]]:
    """The linear layers of a decoder layer's MLP, each with its parametrisation."""
    form = read_mlp(mlp).form
    logits = nn.Parameter(torch.zeros(options.fused_experts))
    inputs = ("gate", "up") if form.gated else ("up",)
    for names, roles in ((form.inputs, inputs), ((form.output,), ("down",))):
        layers = [getattr(mlp, name) for name in names]
        weight = torch.cat([layer.weight for layer in layers])
        place, count = f"layer.{number}.fused", options.fused_experts
        matrices = list(varied(weight, roles, place, range(count), options, seed))
        experts = torch.cat(matrices).view(count, *weight.shape)
        experts += weight - experts.mean(0)
        sizes = [len(layer.weight) for layer in layers]
        for layer, part in zip(layers, experts.split(sizes, dim=1), strict=True):
            yield layer, FusedExperts(logits, part.contiguous())
