"""The checkpoints of tests/golden, which are in the format of the published XFT code."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xft.config.sections import MixtureConfig

THETA = 10000.0  # of the published modules, whatever their config says
BASE = ("hidden_act", "hidden_size", "initializer_range", "intermediate_size", "rms_norm_eps")
BASE += ("max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size")
BASE += ("num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id")


def converted(checkpoint: Path, out: Path) -> Path:
    """The same mixture in this project's format, at `out`."""
    config = json.loads((checkpoint / "config.json").read_text())
    base = {key: config[key] for key in BASE} | {"model_type": "llama", "rope_theta": THETA}
    base |= {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    mixture = {"num_experts": config["num_experts"], "num_experts_per_tok": config["num_selects"]}
    mixture |= {"normalize_routing": "NoNormalization" not in config["gate_type"]}
    mixture |= {"balance_loss_coef": config["gate_balance_loss_weight"]}
    named = {"architectures": ["XftLlamaForCausalLM"], "model_type": "xft", "dtype": "float32"}
    out.mkdir(parents=True)
    settings = MixtureConfig(**mixture).model_dump()
    (out / "config.json").write_text(json.dumps(named | {"base_config": base} | settings))
    tensors, state = load_file(checkpoint / "model.safetensors"), {}
    for name in list(tensors):
        if ".mlp." not in name:
            state[name] = tensors.pop(name)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}.mlp"
        parts = {
            part: [
                tensors[f"{block}.calculator.experts.weight_{part}.{expert}.weight"]
                for expert in range(config["num_experts"])
            ]
            for part in ("gate", "up", "down")
        }
        for part, (shared, *_) in parts.items():
            state[f"{block}.shared_expert.{part}_proj.weight"] = shared
        gate, up, down = (torch.stack(parts[part][1:]) for part in ("gate", "up", "down"))
        state[f"{block}.experts.gate_up_proj"] = torch.cat([gate, up], 1)
        state[f"{block}.experts.down_proj"] = down
        published = {"input": "gate_network.0", "output": "gate_network.2", "noise": "weight_noise"}
        for part, name in published.items():
            state[f"{block}.router.{part}.weight"] = tensors[f"{block}.gate.{name}.weight"]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, out / "model.safetensors")
    return out
