"""How far a mixture whose experts are no copies is from its dense model before training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import Checkpoint
from xft.common.progress import say
from xft.config.sections import MoeConfig
from xft.conversions.common import seeded_generator
from xft.conversions.upcycle import chosen_layers
from xft.modeling.configuration import XftConfig
from xft.modeling.experts import Experts
from xft.modeling.moe import MoeBlock

TOKENS = 64


@dataclass(frozen=True)
class Distance:
    """The distance of one layer's mixture from its dense MLP.

    weights: sqrt(mean_i ||W_i - W||^2) / ||W|| over the routed experts i. outputs: ||y - y_dense||
    / ||y_dense|| for random tokens.
    """

    layer: int
    weights: float
    outputs: float


def report_distances(base: Checkpoint, mixture: Path, moe: MoeConfig, seed: int) -> None:
    """Print the distance of each layer."""
    say(
        f"init = {moe.init}: the mixture is not the dense model. The relative distance of its "
        f"routed experts' weights, and of the outputs for {TOKENS} random tokens:"
    )
    for found in distances(base, Checkpoint(mixture), moe, seed):
        say(f"layer {found.layer}: weights {found.weights:.2%}, outputs {found.outputs:.2%}")


@torch.no_grad()
def distances(
    base: Checkpoint, mixture: Checkpoint, moe: MoeConfig, seed: int
) -> Iterator[Distance]:
    """The distance of each upcycled layer, in fp32, with two experts in memory at a time.

    The tokens are normal hidden states, each with a root mean square of 1, as a norm gives them.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(XftConfig.from_dict(mixture.config))
    layers = chosen_layers(base, moe.upcycled_layers)
    for layer, block in zip(layers, model.eval().moe_blocks, strict=True):
        size, generator = block.router.input.in_features, seeded_generator(seed, layer.prefix)
        tokens = torch.randn(TOKENS, size, generator=generator)
        tokens /= tokens.square().mean(dim=1, keepdim=True).sqrt()
        yield _distance(base, mixture, layer, block, tokens)


def _distance(
    base: Checkpoint, mixture: Checkpoint, layer: FfnLayer, block: MoeBlock, tokens: Tensor
) -> Distance:
    router, experts = block.router, block.experts
    place = f"{layer.prefix}.router."
    state = {name: mixture.get(place + name).float() for name in router.state_dict()}
    router.load_state_dict(state, assign=True)
    routing = router(tokens)
    dense = _dense_expert(base, layer)
    expected = _run(dense, experts, tokens)
    mixed = torch.zeros_like(tokens)
    if block.shared_expert is not None:  # a copy of the dense MLP
        mixed = routing.shared_weight[:, None] * expected
    squares = 0.0
    for number in range(experts.num_experts):
        expert = {
            name: mixture.get(f"{layer.prefix}.experts.{name}")[number].float() for name in dense
        }
        weights = (routing.weights * (routing.indices == number)).sum(1)
        mixed += weights[:, None] * _run(expert, experts, tokens)
        squares += _square(expert[name] - dense[name] for name in dense)
    return Distance(
        layer.index,
        (squares / experts.num_experts / _square(dense.values())) ** 0.5,
        ((mixed - expected).norm() / expected.norm()).item(),
    )


def _dense_expert(base: Checkpoint, layer: FfnLayer) -> dict[str, Tensor]:
    """The dense MLP's tensors in fp32, by the names and in the form of one fused expert."""
    tensors = {}
    for part in layer.parts:
        inputs = [base.get(layer.dense(name, part)) for name in layer.form.inputs]
        tensors[layer.experts_in(part)] = torch.cat(inputs).float()
        tensors[layer.experts_out(part)] = base.get(layer.dense(layer.form.output, part)).float()
    return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}


def _run(weights: dict[str, Tensor], like: Experts, tokens: Tensor) -> Tensor:
    """The outputs of one expert with these weights, of the form of `like`, for tokens [T, H]."""
    width = weights["down_proj"].shape[1]
    with torch.device("meta"):
        one = Experts(
            like.config, 1, tokens.shape[1], width, like.act_fn, like.has_gate, like.has_bias
        )
    one.load_state_dict({name: tensor[None] for name, tensor in weights.items()}, assign=True)
    everyone = torch.zeros(len(tokens), 1, dtype=torch.int64)
    return one(tokens, everyone, torch.ones(len(tokens), 1))


def _square(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.norm().item() ** 2 for tensor in tensors)
