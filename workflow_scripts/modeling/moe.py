"""The MoE block that takes the place of a decoder layer's gated MLP."""

import torch
from torch import Tensor, nn
from transformers.integrations import use_experts_implementation

from workflow_scripts.modeling.router import Router, Routing


class TokenMask:
    """Which tokens of the current forward pass are real: set by the model, read by its blocks."""

    def __init__(self):
        self.real: Tensor | None = None

    def set(self, attention_mask: Tensor | None, length: int) -> None:
        """Take the last `length` columns of a 2-D attention mask; None if no token is padding."""
        self.real = None
        if attention_mask is not None and attention_mask.dim() == 2:
            real = attention_mask[:, -length:].bool()
            self.real = None if real.all() else real.flatten()


@use_experts_implementation
class Experts(nn.Module):
    """R gated experts with fused weights: gate_up_proj [R, 2I, H], down_proj [R, H, I].

    This forward is transformers' "eager" implementation of these experts; "grouped_mm" and the
    kernels come from transformers.
    """

    def __init__(self, config, num_experts: int, like: nn.Module):
        super().__init__()
        intermediate_size, hidden_size = like.gate_proj.weight.shape
        self.num_experts = num_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.act_fn = like.act_fn

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs, [T, H].

        Tokens are sorted by expert, so that each expert multiplies one slice. `unbind` keeps the
        backward pass from filling a gradient of all experts for each expert.
        """
        order = top_k_index.flatten().argsort(stable=True)
        token = order // top_k_index.shape[-1]
        counts = top_k_index.flatten().bincount(minlength=self.num_experts).tolist()
        slices = hidden_states[token].split(counts)
        experts = zip(slices, self.gate_up_proj.unbind(0), self.down_proj.unbind(0), strict=True)
        outputs = [
            nn.functional.linear(self._apply_gate(nn.functional.linear(x, gate_up)), down)
            for x, gate_up, down in experts
        ]
        weighted = torch.cat(outputs) * top_k_weights.flatten()[order, None]
        total = torch.zeros_like(hidden_states, dtype=weighted.dtype)
        return total.index_add(0, token, weighted).to(hidden_states.dtype)


class MoeBlock(nn.Module):
    """Shared expert and routed experts, weighed by the router.

    y = w_shared E_shared(x) + sum_i w_i E_i(x). Padding is neither routed nor counted; its output
    is zero. `routing` holds what the router decided in the last forward pass.
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__()
        hidden_size = mlp.gate_proj.in_features
        self.token_mask = token_mask
        self.router = Router(config, hidden_size)
        self.experts = Experts(config, config.num_experts - config.shared_expert, like=mlp)
        self.shared_expert = mlp if config.shared_expert else None
        self.routing: Routing | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Hidden states of any shape [..., H] to the same shape."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        real = self.token_mask.real
        if real is None:
            return self.mix(tokens).view_as(hidden_states)
        real = real.to(tokens.device)
        output = torch.zeros_like(tokens)
        output[real] = self.mix(tokens[real])
        return output.view_as(hidden_states)

    def mix(self, tokens: Tensor) -> Tensor:
        """Route and compute real tokens [T, H]."""
        self.routing = routing = self.router(tokens)
        output = self.experts(tokens, routing.indices, routing.weights)
        if self.shared_expert is not None:
            output = output + routing.shared_weight[:, None] * self.shared_expert(tokens)
        return output.to(tokens.dtype)
