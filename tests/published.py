"""The config of a published model."""

DEEPSEEK = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"},
    **{"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24},
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32256},
    "tie_word_embeddings": False,
}
