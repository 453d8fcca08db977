"""How far a mixture whose experts are no copies is from its dense model before training."""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import Checkpoint
from xft.common.progress import say
from xft.config.sections import MoeConfig
from xft.conversions.common import seeded_generator
from xft.conversions.upcycle import chosen_layers
from xft.modeling.configuration import XftConfig

TOKENS = 64


def report_distances(base: Checkpoint, mixture: Path, moe: MoeConfig, seed: int) -> None:
    """Print the distance of each layer."""
    say(
        f"init = {moe.init}: the mixture is not the dense model. The relative distance of its "
        f"routed experts' weights, and of the outputs for {TOKENS} random tokens:"
    )
    for layer, weights, outputs in distances(base, Checkpoint(mixture), moe, seed):
        say(f"layer {layer}: weights {weights:.2%}, outputs {outputs:.2%}")


@torch.no_grad()
def distances(
    base: Checkpoint, mixture: Checkpoint, moe: MoeConfig, seed: int
) -> Iterator[tuple[int, float, float]]:
    """The index of each upcycled layer, and the distances of its weights and of its outputs.

    weights: sqrt(mean_i ||W_i - W||^2) / ||W|| over the routed experts i. outputs: ||y - y_dense||
    / ||y_dense|| for random tokens. In fp32, with one layer of the mixture in memory.
    The tokens are normal hidden states, each with a root mean square of 1, as a norm gives them.
    """
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
        dense = AutoModelForCausalLM.from_config(config)
        model = AutoModelForCausalLM.from_config(XftConfig.from_dict(mixture.config))
    for layer in chosen_layers(base, moe.upcycled_layers):
        mlp, block = _loaded(dense, base, layer), _loaded(model, mixture, layer)
        generator = seeded_generator(seed, layer.prefix)
        tokens = torch.randn(TOKENS, block.router.input.in_features, generator=generator)
        tokens /= tokens.square().mean(dim=1, keepdim=True).sqrt()
        expected = mlp(tokens)
        outputs = (block(tokens) - expected).norm() / expected.norm()
        yield layer.index, _of_weights(mlp, block, layer), outputs.item()


def _loaded(model: nn.Module, checkpoint: Checkpoint, layer: FfnLayer) -> nn.Module:
    """A copy of the block of one layer in a model without values, with the values in fp32."""
    block = copy.deepcopy(model.get_decoder().layers[layer.index].mlp).eval()
    state = {name: checkpoint.get(f"{layer.prefix}.{name}").float() for name in block.state_dict()}
    block.load_state_dict(state, assign=True)
    return block


def _of_weights(mlp: nn.Module, block: nn.Module, layer: FfnLayer) -> float:
    moved = size = 0.0
    for part in layer.parts:
        for name, projections in layer.fused(part):
            weight = torch.cat([mlp.get_parameter(f"{one}.{part}") for one in projections])
            experts = block.get_parameter(name.removeprefix(f"{layer.prefix}."))
            moved += (experts - weight).norm().item() ** 2 / len(experts)
            size += weight.norm().item() ** 2
    return (moved / size) ** 0.5
