"""The mixing model: a dense backbone whose FFN weights are merged from experts on the fly.

Only the mixing logits alpha train. See conversions/merge.py for the equation.
"""

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from workflow_scripts.checkpoints.layout import PROJECTIONS, moe_layers
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.conversions.merge import alpha_place, merge, routed_experts


class MixedLinear(nn.Module):
    """A linear layer without bias whose weight is merged from frozen experts.

    shared [out, in], experts [R, out, in], alpha [R].
    """

    def __init__(
        self, shared: Tensor, experts: Tensor, alpha: nn.Parameter, shared_expert_weight: float
    ):
        super().__init__()
        self.register_buffer("shared", shared, persistent=False)
        self.register_buffer("experts", experts, persistent=False)
        self.alpha = alpha
        self.shared_expert_weight = shared_expert_weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        weight = merge(self.shared, self.experts, self.alpha, self.shared_expert_weight)
        return nn.functional.linear(hidden_states, weight.to(hidden_states.dtype))


class Mixing:
    """A mixing model and its logits.

    model: the backbone's own causal LM class, of which only alpha requires a gradient.
    alpha [layers or 1, projections or 1, R]: see conversions.merge.alpha_shape.
    """

    def __init__(
        self, moe: Checkpoint, ffn: Checkpoint, alpha: Tensor, shared_expert_weight: float
    ):
        self.parameters = [[nn.Parameter(row.clone()) for row in rows] for rows in alpha]
        self.model = _backbone(moe, ffn).requires_grad_(False)
        decoder_layers = self.model.get_decoder().layers
        for position, layer in enumerate(moe_layers(ffn.names)):
            for projection in PROJECTIONS:
                row, column = alpha_place(alpha.shape, position, projection)
                mixed = MixedLinear(
                    ffn.get(layer.shared(projection)),
                    routed_experts(ffn, layer, projection),
                    self.parameters[row][column],
                    shared_expert_weight,
                )
                setattr(decoder_layers[layer.index].mlp, projection, mixed)

    @property
    def alpha(self) -> Tensor:
        """The logits as they are now, on the CPU."""
        rows = [torch.stack(list(row)) for row in self.parameters]
        return torch.stack(rows).detach().cpu()


def _backbone(moe: Checkpoint, ffn: Checkpoint) -> PreTrainedModel:
    """The mixture's dense backbone; its FFNs are the shared experts."""
    base_config = dict(moe.config["base_config"])
    config = CONFIG_MAPPING[base_config.pop("model_type")].from_dict(base_config)
    state = {name: moe.get(name) for name in moe.names if ".mlp." not in name}
    for layer in moe_layers(ffn.names):
        for projection in PROJECTIONS:
            state[layer.dense(projection)] = ffn.get(layer.shared(projection))
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
