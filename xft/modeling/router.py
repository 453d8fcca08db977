"""The router: it chooses the experts and their weights for each token, and measures the balance.

Symbols: T tokens, H hidden size, R routed experts (all but the shared one), k routed experts chosen
per token (the shared one not counted). Equations: XFT, arXiv 2404.15247, section 3.1; noise, load
and balance loss: Shazeer et al. 2017, arXiv 1701.06538, appendix A.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

NOISE_EPSILON = 0.01


@dataclass
class Routing:
    """The router's decision for T tokens.

    logits [T, R]: router logits r, noisy in training.
    indices [T, k]: chosen routed experts, best first, 0 to R - 1.
    weights [T, k], fp32: their weights.
    shared_weight [T], fp32: the shared expert's weight; None without a shared expert.
    importance [R], fp32: sum over the tokens of each chosen expert's gate value.
    load [R], fp32: tokens per expert; in training with noise, a smooth estimate of it.
    noise_scale [], fp32: the mean factor of the noise; None without noise.
    clean_logits [T, R]: r before the noise; None without noise.
    """

    logits: Tensor
    indices: Tensor
    weights: Tensor
    shared_weight: Tensor | None
    importance: Tensor
    load: Tensor
    noise_scale: Tensor | None = None
    clean_logits: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """importance and load [2, R]."""
        return torch.stack([self.importance, self.load])

    def spread(self) -> tuple[Tensor, Tensor]:
        """For all E experts, the shared one first: which are chosen [T, E], and their weights.

        The weights [T, E], fp32, are zero where an expert is not chosen.
        """
        weights = torch.zeros_like(self.logits, dtype=self.weights.dtype)
        weights = weights.scatter(1, self.indices, self.weights)
        chosen = torch.zeros_like(weights, dtype=torch.bool).scatter(1, self.indices, True)
        if self.shared_weight is None:
            return chosen, weights
        shared = self.shared_weight[:, None]
        everyone = torch.ones_like(shared, dtype=torch.bool)
        return torch.cat([everyone, chosen], 1), torch.cat([shared, weights], 1)

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """load [R]: each expert's share of the choices; importance [R]: its share of the gate
        values; entropy []: of softmax(logits), mean over the tokens, at most log(R);
        noise_scale []; noise_changed []: the share of the choices that the noise changed.
        """
        experts = self.logits.shape[-1]
        statistics = {
            "load": self.indices.flatten().bincount(minlength=experts) / self.indices.numel(),
            "importance": self.importance / self.importance.sum(),
            "entropy": torch.special.entr(self.logits.softmax(dim=-1)).sum(dim=-1).mean(),
        }
        if self.noise_scale is not None:
            statistics["noise_scale"] = self.noise_scale
            clean = self.clean_logits.topk(self.indices.shape[-1], dim=-1).indices
            kept = (self.indices[:, :, None] == clean[:, None, :]).any(dim=-1)
            statistics["noise_changed"] = 1 - kept.float().mean()
        return statistics


def squared_variation(values: Tensor) -> Tensor:
    """CV^2(v) = var(v) / (mean(v)^2 + 1e-10), with the unbiased variance; 0 for a single value.

    values [..., R] give [...].
    """
    if values.shape[-1] < 2:
        return values.new_zeros(values.shape[:-1])
    return values.var(-1) / (values.mean(-1) ** 2 + 1e-10)


class NoiseProjection(nn.Linear):
    """Wn. It has its own class so that it starts at zero under any backbone's initialiser."""


class Router(nn.Module):
    """Noisy top-k routing with routing weight normalisation.

    r = W2 tanh(W1 x) ("mlp") or W1 x ("linear"), without biases. Training adds noise:
    r + n (softplus(Wn x) + 0.01), with n standard normal and Wn zero at the start.
    """

    def __init__(self, config, hidden_size: int):
        super().__init__()
        self.top_k = config.num_experts_per_tok - config.shared_expert
        self.has_shared_expert = config.shared_expert
        self.normalize = config.normalize_routing
        routed = config.num_routed_experts
        self.input = nn.Linear(hidden_size, routed, bias=False)
        self.output = nn.Linear(routed, routed, bias=False) if config.router == "mlp" else None
        self.noise = None
        if config.router_noise:
            self.noise = NoiseProjection(hidden_size, routed, bias=False)
        self.noise_factor = 1.0  # a training may lower it

    def forward(self, hidden_states: Tensor) -> Routing:
        """Route hidden states [T, H]."""
        clean = self.logits(hidden_states)
        if not (self.training and self.noise is not None):
            return self.route(clean)
        scale = nn.functional.softplus(self.noise(hidden_states).float()) + NOISE_EPSILON
        scale = scale * self.noise_factor
        noisy = clean + self.sample_noise(clean) * scale
        routing = self.route(noisy)
        routing.load = smooth_load(clean, noisy, scale, self.top_k)
        routing.noise_scale = scale.detach().mean()
        routing.clean_logits = clean.detach()
        return routing

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Clean router logits r [T, R], fp32."""
        logits = self.input(hidden_states)
        if self.output is not None:
            logits = self.output(torch.tanh(logits))
        return logits.float()

    def sample_noise(self, like: Tensor) -> Tensor:
        """Standard normal draws of the shape of `like`."""
        return torch.randn_like(like)

    def route(self, logits: Tensor) -> Routing:
        """Choose experts and weights from logits [T, R].

        With a shared expert: s = softmax(r) over all R, and s_1 >= ... >= s_k are chosen. The
        weight of expert i is s_1 softmax(s_1 .. s_k)_i if normalised, else s_i. The weight of the
        shared expert is 1 - s_1. Without a shared expert (vanilla upcycling) the weight of expert
        i is softmax(r_1 .. r_k)_i.
        """
        if not self.has_shared_expert:
            chosen, indices = logits.topk(self.top_k, dim=-1)
            weights = gates = chosen.softmax(dim=-1)
            shared_weight = None
        else:
            gates, indices = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
            best = gates[:, :1]
            weights = best * gates.softmax(dim=-1) if self.normalize else gates
            shared_weight = 1 - best[:, 0]
        flat = indices.flatten()
        per_expert = logits.new_zeros(logits.shape[-1])
        return Routing(
            logits=logits,
            indices=indices,
            weights=weights,
            shared_weight=shared_weight,
            importance=per_expert.double().index_add(0, flat, gates.flatten().double()).float(),
            load=per_expert.index_add(0, flat, torch.ones_like(gates).flatten()),
        )


def smooth_load(clean: Tensor, noisy: Tensor, scale: Tensor, k: int) -> Tensor:
    """The expected number of tokens [R] that choose each expert, over new draws of its own noise.

    The sum over the tokens of P(x, e) = Phi((clean_e - threshold_e) / scale_e). threshold_e is the
    k-th largest of the other experts' noisy logits. All arguments [T, R]. If k = R, each expert has
    every token.
    """
    tokens, routed = clean.shape
    if k >= routed:
        return clean.new_full((routed,), float(tokens))
    largest = noisy.topk(k + 1, dim=-1).values
    threshold_if_chosen = largest[:, k:]
    threshold_if_not = largest[:, k - 1 : k]
    is_chosen = noisy > threshold_if_chosen
    threshold = torch.where(is_chosen, threshold_if_chosen, threshold_if_not)
    return torch.special.ndtr((clean - threshold) / scale).sum(dim=0)
