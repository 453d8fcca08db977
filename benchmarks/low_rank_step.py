"""Compares forward and backward passes of LoRA experts, full experts and dense FFNs.

- low rank: this project's block with LoRA experts; its factors and its router learn;
- full: this project's block with full experts; all of it learns;
- dense: the base's FFN; all of it learns;
- dense, LoRA: the same with PEFT's products of the same rank, which alone learn.

6 of 8 experts compute a token. `process ms` is the CPU time of all threads, which other work on the
machine changes little. Peak memory is that of one pass in a process of its own, without weights.
Usage: python -m benchmarks.low_rank_step [--threads N] [--repeats N]
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from benchmarks.peak import peak_memory
from benchmarks.timing import markdown_table
from xft.modeling.moe_blocks import LowRankBlock, MoeBlock, TokenMask

RANK, ALPHA = 32, 64.0
# Tokens, hidden size, intermediate size.
SHAPES = {
    "the embedded model": (1024, 128, 384),
    "SmolLM2-135M": (1024, 576, 1536),
    "Qwen2.5-Coder-0.5B": (512, 896, 4864),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16 autocast over fp32": None}
CONFIG = SimpleNamespace(
    num_experts=8,
    num_routed_experts=7,
    num_experts_per_tok=6,
    shared_expert=True,
    normalize_routing=True,
    router="mlp",
    router_noise=True,
    _experts_implementation="eager",
    rank=RANK,
    lora_alpha=ALPHA,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.low_rank_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--repeats", type=int, default=7, help="Timed rounds. Default: 7.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, sizes in SHAPES.items():
        for precision in PRECISIONS:
            cases = {way: make_step(way, sizes, precision) for way in WAYS}
            print(f"\n{name}, {sizes[0]} tokens, one layer, {precision}\n")
            print(report(cases, sizes, precision, args.repeats), flush=True)


def report(cases: dict[str, Callable], sizes: tuple, precision: str, repeats: int) -> str:
    """Markdown: median times, the speed of LoRA experts relative to each, peak memory."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in cases}
    for number in range(repeats + 1):
        for way, step in cases.items():
            gc.collect()
            wall, process = time.perf_counter(), time.process_time()
            step()
            if number:
                passed = time.perf_counter() - wall, time.process_time() - process
                times[way].append(passed)
    medians = {}
    for way, passed in times.items():
        walls, processes = zip(*passed, strict=True)
        medians[way] = statistics.median(walls), statistics.median(processes)
    rows = []
    for way, (wall, process) in medians.items():
        ratio = process / medians["low rank"][1]
        peak = peak_memory(partial(make_step, way, sizes, precision)) / 2**20
        rows.append(
            (way, f"{1e3 * wall:.1f}", f"{1e3 * process:.1f}", f"{ratio:.2f}", f"{peak:.0f}")
        )
    return markdown_table(("", "ms", "process ms", "relative to low rank", "peak MiB"), rows)


def make_step(way: str, sizes: tuple[int, int, int], precision: str) -> Callable[[], None]:
    """A function that runs one forward and backward pass of a way."""
    torch.manual_seed(0)
    tokens, hidden_size, intermediate_size = sizes
    config = LlamaConfig(hidden_size=hidden_size, intermediate_size=intermediate_size)
    dtype = PRECISIONS[precision] or torch.float32
    layer = WAYS[way](LlamaMLP(config)).to(dtype)
    inputs = torch.randn(tokens, hidden_size).to(dtype).requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=PRECISIONS[precision] is None)

    def step() -> None:
        layer.zero_grad()
        inputs.grad = None
        with autocast:
            output = layer(inputs)
        output.float().square().mean().backward()

    return step


def full(mlp: nn.Module) -> nn.Module:
    return randomized(MoeBlock(CONFIG, mlp, TokenMask()))


def low_rank(mlp: nn.Module) -> nn.Module:
    mlp.requires_grad_(False)
    return randomized(LowRankBlock(CONFIG, mlp, TokenMask()))


def randomized(block: nn.Module) -> nn.Module:
    for parameter in block.experts.parameters():
        nn.init.normal_(parameter, std=0.02)
    return block


def with_lora(mlp: nn.Module) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    names = ["gate_proj", "up_proj", "down_proj"]
    return inject_adapter_in_model(
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names), mlp, "default"
    )


WAYS = {"low rank": low_rank, "full": full, "dense": lambda mlp: mlp, "dense, LoRA": with_lora}


if __name__ == "__main__":
    main()
