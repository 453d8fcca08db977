"""Where the FFN weights lie: tensor names in a dense model and in an upcycled one.

P stands for `model.layers.<n>.mlp` or alike, R for the number of routed experts.

- Dense: `P.gate_proj.weight` [I, H], `P.up_proj.weight` [I, H], `P.down_proj.weight` [H, I].
- Upcycled: the same under `P.shared_expert`; the routed experts fused, `P.experts.gate_up_proj`
  [R, 2I, H] and `P.experts.down_proj` [R, H, I]; the router under `P.router`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from workflow_scripts.errors import UserError

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
MLP_TENSOR = re.compile(r"(?P<prefix>.*\blayers\.(?P<index>\d+)\.mlp)\.(?P<rest>.+)")


@dataclass(frozen=True)
class FfnLayer:
    """Tensor names of the FFN of one decoder layer. `prefix` ends in `.mlp`."""

    prefix: str
    index: int

    def dense(self, projection: str) -> str:
        return f"{self.prefix}.{projection}.weight"

    def shared(self, projection: str) -> str:
        return f"{self.prefix}.shared_expert.{projection}.weight"

    @property
    def gate_up(self) -> str:
        return f"{self.prefix}.experts.gate_up_proj"

    @property
    def down(self) -> str:
        return f"{self.prefix}.experts.down_proj"

    def router(self, part: str) -> str:
        return f"{self.prefix}.router.{part}.weight"


def dense_layers(names: Iterable[str], config: dict) -> list[FfnLayer]:
    """The layers of a dense model, first to last.

    Raises UserError where an MLP is not gated, or not every layer of the config has one.
    """
    wanted = {f"{projection}.weight" for projection in PROJECTIONS}
    layers = []
    for layer, held in _by_layer(names).items():
        if held != wanted:
            raise UserError(
                f"{model_name(config)}: the MLP of layer {layer.index} holds "
                f"{', '.join(sorted(held))}. Only gated MLPs without biases can be upcycled: "
                f"{', '.join(sorted(wanted))}"
            )
        layers.append(layer)
    expected = config.get("num_hidden_layers")
    if len(layers) != expected:
        raise UserError(
            f"{model_name(config)}: {len(layers)} of {expected} layers have a gated MLP named "
            f"`mlp` with {', '.join(PROJECTIONS)}. Models like Llama, Mistral, Qwen2, Qwen3 and "
            "StableLM can be upcycled; mixtures of experts and ungated MLPs cannot"
        )
    return layers


def moe_layers(names: Iterable[str]) -> list[FfnLayer]:
    """The layers of an upcycled model, or of the FFN weights extracted from one, first to last.

    Raises UserError where there are none.
    """
    layers = []
    for layer, held in _by_layer(names).items():
        if not {"experts.gate_up_proj", "experts.down_proj"} <= held:
            raise UserError(f"layer {layer.index} holds no experts: not an upcycled model")
        layers.append(layer)
    if not layers:
        raise UserError("no layer holds experts: not an upcycled model")
    return layers


def _by_layer(names: Iterable[str]) -> dict[FfnLayer, set[str]]:
    found: dict[FfnLayer, set[str]] = {}
    for name in names:
        if match := MLP_TENSOR.fullmatch(name):
            layer = FfnLayer(match["prefix"], int(match["index"]))
            found.setdefault(layer, set()).add(match["rest"])
    return dict(sorted(found.items(), key=lambda item: item[0].index))


def model_name(config: dict) -> str:
    """The model's class, or its type where the config does not name a class."""
    names = config.get("architectures") or [config.get("model_type", "unknown model")]
    return names[0]
