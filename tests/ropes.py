"""A RoPE of each kind that is kept, none of them the default of transformers."""

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 100000.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100000.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 100000.0,
        "original_max_position_embeddings": 32,
    },
}
