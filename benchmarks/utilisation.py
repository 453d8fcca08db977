"""Measures the share of a GPU's peak in step 2, with DeepSeek-Coder-1.3B's size and 8 experts."""

import statistics
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.stepwise import Stepwise, make_trainer
from benchmarks.timing import interleaved
from xft.config.sections import MoeSftConfig
from xft.modeling.configuration import XftConfig

ROWS, LENGTH, STEPS, WARMUP = 8, 1024, 10, 3
ACTIVE_EXPERTS, EXPERTS = 6, 8
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # bf16, dense, FLOP/s
SHAPE = {
    "vocab_size": 32256,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
MOE = {
    "num_experts": EXPERTS,
    "num_experts_per_tok": ACTIVE_EXPERTS,
    "shared_expert": True,
    "normalize_routing": True,
    "router": "mlp",
    "router_noise": True,
    "balance_loss_coef": 0.01,
    "upcycled_layers": None,
}


def report(shape: dict = SHAPE) -> None:
    """Print the tokens per second, and the share of the GPU's peak if the peak is known."""
    config = LlamaConfig(**shape)
    seconds = statistics.median(step_seconds(config))
    tokens = ROWS * LENGTH
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    speed = tokens * flops_per_token(config) / seconds
    peak = next((value for key, value in PEAK.items() if key in name), None)
    share = f", {speed / peak:.1%} of its peak" if peak else ""
    print(f"\n{name}, bf16, Adafactor, packed: {tokens / seconds:.0f} tokens/s, ", end="")
    print(f"{speed / 1e12:.1f} TFLOP/s of the model{share}")


def step_seconds(config: LlamaConfig) -> list[float]:
    """Seconds of each optimiser step on random rows, in the step's own loop."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = {"model_type": "xft", "base_config": config.to_dict(), **MOE}
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(XftConfig.from_dict(own), dtype=torch.bfloat16)
    model.activation_checkpointing_enable()
    ids = torch.randint(config.vocab_size, (ROWS * (WARMUP + STEPS), LENGTH)).tolist()
    rows = [{"input_ids": row, "labels": row, "row": number} for number, row in enumerate(ids)]
    options = MoeSftConfig(
        learning_rate=1e-4,
        per_device_train_batch_size=ROWS,
        max_steps=WARMUP + STEPS,
        precision="bf16_pure",
        optim="adafactor",
        batching="packed",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, rows, None, options, Path(folder), None)
        case = Stepwise(trainer)
        seconds = interleaved({"packed": case.step}, STEPS, WARMUP)
        case.finish()
    return seconds["packed"]


def flops_per_token(config: LlamaConfig) -> float:
    """FLOPs of both passes for a token: 6 for each of its active parameters, and attention.

    Activations that checkpointing computes again do not count: the model itself does not need that.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads + config.num_key_value_heads
    attention = 2 * hidden * config.head_dim * heads
    experts = ACTIVE_EXPERTS * 3 * hidden * config.intermediate_size
    scores = 2 * config.num_attention_heads * config.head_dim * LENGTH / 2  # causal: half of them
    head = hidden * config.vocab_size
    return 6 * (layers * (attention + experts + scores) + head)
