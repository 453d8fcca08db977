"""The blocks that replace a decoder layer's MLP: routed tokens, and experts with full weights."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from xft.modeling.experts import Experts
from xft.modeling.mlp import read_mlp
from xft.modeling.router import Router, Routing


class TokenMask:
    """Which tokens of the backbone's forward pass are not padding. The model sets it for blocks.

    real: the numbers of these tokens [n]; None if no token is padding. On a GPU the host waits for
    them once, not in each block.
    keeps_routing: whether blocks keep their routing for the model. It is false in a backward pass
    that computes activations again, since a kept routing would keep these activations in memory,
    and where the backbone is called alone.
    """

    def __init__(self):
        self.real: Tensor | None = None
        self.keeps_routing = True

    def set(self, attention_mask: Tensor | None, length: int) -> None:
        """Set `real` from the last `length` columns of a 2-D attention mask.

        `real` is None if no token is padding.
        """
        self.real = None
        if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
            real = attention_mask[:, -length:].flatten().nonzero()[:, 0]
            self.real = real if len(real) < length * len(attention_mask) else None


class RoutedBlock(ABC, nn.Module):
    """Routes tokens, and lets a subclass compute them.

    Padding is neither routed nor counted; its output is zero. `routing` holds the router's decision
    until the model takes it.
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__()
        self.shape = read_mlp(mlp)
        self.token_mask = token_mask
        self.router = Router(config, self.shape.hidden_size)
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
        routing = self.router(tokens)
        if self.token_mask.keeps_routing:
            self.routing = routing
        return self.compute(tokens, routing).to(tokens.dtype)

    @abstractmethod
    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs, for tokens [T, H]: [T, H]."""


class MoeBlock(RoutedBlock):
    """A shared expert and routed experts, weighted by the router.

    y = w_shared E_shared(x) + sum_i w_i E_i(x).
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__(config, mlp, token_mask)
        self.experts = Experts(config, config.num_routed_experts, self.shape)
        self.shared_expert = mlp if config.shared_expert else None

    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        output = self.experts(tokens, routing.indices, routing.weights)
        if self.shared_expert is not None:
            output = output + routing.shared_weight[:, None] * self.shared_expert(tokens)
        return output
