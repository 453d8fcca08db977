"""Backbones that tests build in small."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

# A RoPE of each kind that is kept, none of them the default of transformers.
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 100000.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100000.0},
}

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
HEAD = {"head_dim": 8}
SLIDING = HEAD | {"query_pre_attn_scalar": 8, "sliding_window": 8}
# "type-variant": what differs from SIZES. docs/backbones.md lists the types.
BACKBONES = {
    "llama": {"rope_parameters": ROPES["linear"]},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-biases": {"mlp_bias": True, "attention_bias": True},
    "llama-geglu": {"hidden_act": "gelu_pytorch_tanh"},
    "llama-rope-dynamic": {"rope_parameters": ROPES["dynamic"]},  # it depends on the length
    "qwen3": {"head_dim": 16},
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "starcoder2": {"residual_dropout": 0.0},
}
BACKBONES |= {name: {"sliding_window": 8} for name in ("mistral", "cohere2")}
BACKBONES |= dict.fromkeys(("gemma2", "gemma3_text"), SLIDING)
BACKBONES |= dict.fromkeys(("gemma", "ernie4_5", "helium", "hunyuan_v1_dense", "glm", "glm4"), HEAD)
PLAIN = "qwen2", "stablelm", "olmo", "olmo2", "smollm3", "granite", "cohere", "phi3", "gpt_neox"
BACKBONES |= {name: {} for name in (*PLAIN, "phi", "persimmon", "nemotron", "arcee")}
# An MLP with a gate, one with a fused gate, one without a gate and with biases, and soft caps.
FORMS = ("llama", "phi3", "starcoder2", "gemma2")


def byte_level_bpe(pre_tokenizer, texts: list[str], **about) -> Tokenizer:
    """A byte-level BPE that is trained on texts. about: vocab_size and special_tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False, **about)
    bpe.train_from_iterator(texts, trainer)
    return bpe


def small_config(backbone: str, **settings):
    """The config of a key of BACKBONES. settings: other values than SIZES has."""
    kind = backbone.partition("-")[0]
    return AutoConfig.for_model(kind, **SIZES | BACKBONES[backbone] | settings)


def random_dense(backbone: str, **settings):
    """A random model; its biases are random too, as zeros would hide that one is lost."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(backbone, **settings))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def save_base(backbone: str, folder: Path, dtype=None, **settings) -> Path:
    """Save such a model."""
    random_dense(backbone, **settings).to(dtype).save_pretrained(folder)
    return folder
