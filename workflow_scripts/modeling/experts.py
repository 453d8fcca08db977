"""The routed experts of a layer, computed together."""

import torch
from torch import Tensor, nn
from transformers.integrations import use_experts_implementation


@use_experts_implementation
class Experts(nn.Module):
    """R gated experts with fused weights: gate_up_proj [R, 2I, H], down_proj [R, H, I].

    This forward is transformers' "eager" implementation of these experts; "grouped_mm" and the
    kernels come from transformers.
    """

    def __init__(
        self,
        config,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        act_fn,
        gated: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        self.num_experts = num_experts
        self.gated = gated
        self.into = "gate_up_proj" if gated else "up_proj"
        rows = 2 * intermediate_size if gated else intermediate_size
        self.register_parameter(
            self.into, nn.Parameter(torch.empty(num_experts, rows, hidden_size))
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        if bias:
            self.register_parameter(
                self.into + "_bias", nn.Parameter(torch.empty(num_experts, rows))
            )
            self.down_proj_bias = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.bias = bias
        self.act_fn = act_fn

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs, [T, H].

        Tokens are sorted by expert, so that each expert multiplies one slice. `unbind` keeps the
        backward pass from filling a gradient of all experts for each expert.
        """
        order = top_k_index.flatten().argsort(stable=True)
        token = order // top_k_index.shape[-1]
        counts = top_k_index.flatten().bincount(minlength=self.num_experts).tolist()
        slices = hidden_states[token].split(counts)
        n = self.num_experts
        bi = getattr(self, self.into + "_bias").unbind(0) if self.bias else [None] * n
        bo = self.down_proj_bias.unbind(0) if self.bias else [None] * n
        act = self._apply_gate if self.gated else self.act_fn
        weights = getattr(self, self.into).unbind(0)
        experts = zip(slices, weights, self.down_proj.unbind(0), bi, bo, strict=True)
        outputs = [
            nn.functional.linear(act(nn.functional.linear(x, gate_up, b1)), down, b2)
            for x, gate_up, down, b1, b2 in experts
        ]
        weighted = torch.cat(outputs) * top_k_weights.flatten()[order, None]
        total = torch.zeros_like(hidden_states, dtype=weighted.dtype)
        return total.index_add(0, token, weighted).to(hidden_states.dtype)
