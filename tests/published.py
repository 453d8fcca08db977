"""The checkpoints of tests/golden, which are in the format of the published XFT code."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xft.config.sections import MixtureConfig

THETA = 10000.0  # of the published modules, whatever their config says


def converted(checkpoint: Path, out: Path) -> Path:
    """The same mixture in this project's format, at `out`."""
    config = json.loads((checkpoint / "config.json").read_text())
    base = config | {"model_type": "llama", "rope_theta": THETA, "tie_word_embeddings": False}
    base["architectures"] = ["LlamaForCausalLM"]
    mixture = {"num_experts": config["num_experts"], "num_experts_per_tok": config["num_selects"]}
    mixture |= {"normalize_routing": "NoNormalization" not in config["gate_type"]}
    mixture |= {"balance_loss_coef": config["gate_balance_loss_weight"]}
    named = {"architectures": ["XftLlamaForCausalLM"], "model_type": "xft", "dtype": "float32"}
    out.mkdir(parents=True)
    settings = MixtureConfig(**mixture).model_dump()
    (out / "config.json").write_text(json.dumps(named | {"base_config": base} | settings))
    tensors = load_file(checkpoint / "model.safetensors")
    state = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp"
        routed = {}
        for part in ("gate", "up", "down"):
            names = f"{block}.calculator.experts.weight_{part}.{{}}.weight"
            shared, *rest = (tensors[names.format(n)] for n in range(config["num_experts"]))
            state[f"{block}.shared_expert.{part}_proj.weight"] = shared
            routed[part] = torch.stack(rest)
        state[f"{block}.experts.gate_up_proj"] = torch.cat([routed["gate"], routed["up"]], 1)
        state[f"{block}.experts.down_proj"] = routed["down"]
        published = {"input": "gate_network.0", "output": "gate_network.2", "noise": "weight_noise"}
        for part, name in published.items():
            state[f"{block}.router.{part}.weight"] = tensors[f"{block}.gate.{name}.weight"]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, out / "model.safetensors")
    return out
