"""Backbones that tests build in small: what their configs hold."""

from ropes import ROPES

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
HEAD = {"head_dim": 8}
SLIDING = HEAD | {"query_pre_attn_scalar": 8, "sliding_window": 8}
# "type-variant": what differs from SIZES. docs/backbones.md lists the types.
BACKBONES = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-biases": {"mlp_bias": True, "attention_bias": True},
    "llama-geglu": {"hidden_act": "gelu_pytorch_tanh"},
    "llama-rope-dynamic": {"rope_parameters": ROPES["dynamic"]},  # it depends on the length
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "stablelm": {},
    "gemma": HEAD,
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "olmo": {},
    "olmo2": {},
    "smollm3": {},
    "granite": {},
    "cohere": {},
    "cohere2": {"sliding_window": 8},
    "ernie4_5": HEAD,
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "helium": HEAD,
    "hunyuan_v1_dense": HEAD,
    "phi3": {},
    "glm": HEAD,
    "glm4": HEAD,
    "starcoder2": {"residual_dropout": 0.0},
    "gpt_neox": {},
    "phi": {},
    "persimmon": {},
    "nemotron": {},
    "arcee": {},
}
