"""Converts checkpoints of the published XFT code to the format of this project.

The published modules ignore `rope_theta` (they use 10000) and `attention_bias`. The imported model
computes the same as they do.
"""

from collections.abc import Iterable
from itertools import product

from xft.checkpoints.dtypes import FLOAT_NAMES
from xft.checkpoints.layout import LAYER, FfnLayer
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.config.sections import MixtureConfig
from xft.config.validation import validated
from xft.conversions.common import copy_plan, fused_plan
from xft.conversions.upcycle import upcycled_config

PUBLISHED_TYPE = "llama_moe_upscaling"
PUBLISHED_ROPE_THETA = 10000.0
IGNORED = {"attention_bias", "rope_theta", "transformers_version"}
GATES = {
    "TopKUniversalBalancedNoisyGate": {"shared_expert": True, "normalize_routing": True},
    "TopKUniversalBalancedNoNormalizationNoisyGate": {
        "shared_expert": True,
        "normalize_routing": False,
    },
    "TopKBalancedNoisyGate": {"shared_expert": False, "normalize_routing": True},
}
# Switches of the published code that the paper does not use, with the values of this project.
FIXED = {
    "add_weight_norm": False,
    "calculator_type": "UniversalCalculator",
    "gate_noise_epsilon": 0.01,
    "gate_use_softmax": True,
    "multiply_gate_scores": True,
    "score_scale_factor": 1.0,
}


def reference_settings(config: dict) -> MixtureConfig:
    """The `moe` settings of a published config.json.

    Raises UserError if the config is of another type, or uses a variant that the paper lacks.
    """
    if config.get("model_type") != PUBLISHED_TYPE:
        raise UserError(f"model_type is {config.get('model_type')!r}, not {PUBLISHED_TYPE!r}")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"{key} = {config[key]!r} is not supported, only {value!r}")
    try:
        if config["gate_type"] not in GATES:
            gates = ", ".join(GATES)
            raise UserError(f"gate_type = {config['gate_type']!r}: must be one of {gates}")
        settings = {
            "num_experts": config["num_experts"],
            "num_experts_per_tok": config["num_selects"],
            **GATES[config["gate_type"]],
            "router": config["gate_network"],
            "router_noise": bool(config["gate_add_noise"]),
            "balance_loss_coef": config["gate_balance_loss_weight"] * config["gate_use_balance"],
        }
    except KeyError as error:
        raise UserError(f"the config lacks {error}, which published checkpoints have") from None
    return validated(MixtureConfig, settings, "the published config.json")


def imported_config(published: Checkpoint, moe: MixtureConfig) -> dict:
    """The config of the upcycled model, over that of the dense Llama that was published."""
    from transformers import LlamaConfig

    config = published.config
    known = LlamaConfig().to_dict().keys() | {"rope_scaling", "torch_dtype"}
    base = {key: config[key] for key in config.keys() & known - IGNORED} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": PUBLISHED_ROPE_THETA,
    }
    return upcycled_config(base, moe, FLOAT_NAMES[published.dtype(published.names[0])])


def import_reference(published: Checkpoint, moe: MixtureConfig) -> list[TensorSpec]:
    """Plan the tensors of an upcycled model from those of a published MoE checkpoint."""
    plans = [copy_plan(published, name) for name in published.names if ".mlp." not in name]
    layers = {int(match[1]) for name in published.names if (match := LAYER.search(name))}
    for index in sorted(layers):
        layer = FfnLayer(f"model.layers.{index}.mlp", index)
        plans += _expert_plans(published, layer, moe)
        plans += _router_plans(published, layer, moe)
    return plans


def _expert_name(layer: FfnLayer, projection: str, expert: int) -> str:
    part = projection.removesuffix("_proj")
    return f"{layer.prefix}.calculator.experts.weight_{part}.{expert}.weight"


def _expert_plans(
    published: Checkpoint, layer: FfnLayer, moe: MixtureConfig
) -> Iterable[TensorSpec]:
    experts = range(moe.num_experts)
    if moe.shared_expert:
        for projection in layer.form.projections:
            name = _expert_name(layer, projection, 0)
            yield copy_plan(published, name, layer.shared(projection))
        experts = experts[1:]
    for name, projections in layer.fused():
        places = product(experts, projections)
        parts = [_expert_name(layer, projection, expert) for expert, projection in places]
        yield fused_plan(published, name, parts, len(experts))


def _router_plans(
    published: Checkpoint, layer: FfnLayer, moe: MixtureConfig
) -> Iterable[TensorSpec]:
    parts = {"input": "gate_network"}
    if moe.router == "mlp":
        parts = {"input": "gate_network.0", "output": "gate_network.2"}
    if moe.router_noise:
        parts["noise"] = "weight_noise"
    for part, name in parts.items():
        yield copy_plan(published, f"{layer.prefix}.gate.{name}.weight", layer.router(part))
