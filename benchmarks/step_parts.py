"""Measures where the time of an optimiser step of step 2 goes, for each optimiser.

Parts: the forward pass, the backward pass, the norm of the gradient, the optimiser, and the rest of
the Trainer's loop. The models have random weights in bf16 (`bf16_pure`) and the shapes of the
embedded model, SmolLM2-135M and Qwen2.5-Coder-0.5B. A step has 2 packed rows of 384 tokens.

The default optimiser and the published one train the same weights in turn, one step at a time, in
one process. Products of the MLP's matrices follow in each round. The utilisation is the model's
FLOPs in a second, divided by those of the products. The largest shape needs 14 GB of memory.

Usage: python -m benchmarks.step_parts [--threads N] [--steps N] [--shapes NAME ...]
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    TrainerCallback,
)

from benchmarks.stepwise import WARMUP, Stepwise, make_trainer
from benchmarks.timing import interleaved, markdown_table
from xft.config.sections import MoeConfig, MoeSftConfig
from xft.estimates.model_sizes import Models, compute_table, training_flops
from xft.modeling.configuration import MOE_SETTINGS, XftConfig

ROWS, LENGTH = 2, 384
OPTIMIZERS = ("adamw_torch_fused", "adafactor")
PARTS = ("forward", "backward", "norm", "optimiser", "rest")
PRODUCTS_SHARE = 0.1  # FLOPs of a round's products, of those of a step
SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
QWEN = Qwen2Config(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
FOUR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
SHAPES: dict[str, tuple[PreTrainedConfig, MoeConfig]] = {
    "embedded": (AutoConfig.from_pretrained("resources/base"), MoeConfig()),
    "smollm2-135m": (SMOLLM2, MoeConfig(**FOUR_EXPERTS)),
    "qwen2.5-coder-0.5b": (QWEN, MoeConfig(**FOUR_EXPERTS, upcycled_layers=list(range(12, 24)))),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--steps", type=int, default=5, help="Timed steps. Default: 5.")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            report(name, *SHAPES[name], args.steps, Path(folder))


def report(name: str, base: PreTrainedConfig, moe: MoeConfig, steps: int, folder: Path) -> None:
    """Print a table with a row for each optimiser."""
    flops = ROWS * LENGTH * flops_per_token(base, moe, folder)
    model = mixture(base, moe)
    trainers = {optim: trainer(model, optim, steps, folder / optim) for optim in OPTIMIZERS}
    parts = {optim: Parts(trainer) for optim, trainer in trainers.items()}
    cases = {optim: Stepwise(trainer) for optim, trainer in trainers.items()}
    repeats = 1 + round(PRODUCTS_SHARE * flops / product_flops(base))
    ways: dict[str, Callable] = {optim: case.step for optim, case in cases.items()}
    seconds = interleaved(ways | {"products": products(base, repeats)}, steps, WARMUP)
    for case in cases.values():
        case.finish()
    speeds = [repeats * product_flops(base) / taken for taken in seconds["products"]]
    size = f"{model.num_parameters() / 1e6:.0f}M parameters"
    speed = f"{statistics.median(speeds) / 1e9:.0f} GFLOP/s"
    print(f"\n{name}: {size}, {flops / 1e9:.0f} GFLOP a step; products: {speed}\n")
    header = ("", "seconds", *PARTS, "utilisation")
    rows = [
        (optim, *parts[optim].cells(seconds[optim]), utilisation(flops, seconds[optim], speeds))
        for optim in OPTIMIZERS
    ]
    print(markdown_table(header, rows), flush=True)


def utilisation(flops: float, seconds: list[float], speeds: list[float]) -> str:
    """The median over the rounds. speeds: FLOP/s of the products in the same rounds."""
    rounds = zip(seconds, speeds, strict=True)
    return f"{statistics.median(flops / own / speed for own, speed in rounds):.0%}"


def mixture(base: PreTrainedConfig, moe: MoeConfig) -> torch.nn.Module:
    """The mixture with random weights in bf16."""
    settings = {name: getattr(moe, name) for name in MOE_SETTINGS}
    own = {"model_type": "xft", "base_config": base.to_dict(), **settings}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(XftConfig.from_dict(own), dtype=torch.bfloat16)


def flops_per_token(base: PreTrainedConfig, moe: MoeConfig, folder: Path) -> int:
    """The FLOPs of the plan, for rows of LENGTH tokens."""
    file = folder / "config.json"
    base.to_json_file(file, use_diff=False)
    models = Models(compute_table(file), moe)
    return training_flops(models, models.trained("moe_sft"), LENGTH)


def trainer(model, optim: str, steps: int, folder: Path):
    """A trainer as in step 2, on random rows."""
    folder.mkdir()
    number = ROWS * (WARMUP + steps)
    ids = torch.randint(model.config.vocab_size, (number, LENGTH)).tolist()
    rows = [{"input_ids": row, "labels": row, "row": number} for number, row in enumerate(ids)]
    options = MoeSftConfig(
        per_device_train_batch_size=ROWS,
        max_steps=WARMUP + steps,
        precision="bf16_pure",
        optim=optim,
        batching="packed",
    )
    return make_trainer(model, rows, None, options, folder, None)


class Parts(TrainerCallback):
    """The seconds of each part of a trainer's optimiser steps."""

    def __init__(self, trainer):
        self.seconds: dict[str, list[float]] = defaultdict(list)
        trainer.compute_loss = self._timed("forward", trainer.compute_loss)
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)
        trainer._get_grad_norm = self._timed("norm", trainer._get_grad_norm)
        trainer.add_callback(self)

    def cells(self, whole: list[float]) -> list[str]:
        """The median seconds of a step, and the share of each part in all steps.

        whole: seconds of the timed steps.
        """
        sums = {name: sum(times[WARMUP:]) for name, times in self.seconds.items()}
        sums["rest"] = sum(whole) - sum(sums.values())
        shares = [f"{sums[part] / sum(whole):.0%}" for part in PARTS]
        return [f"{statistics.median(whole):.2f}", *shares]

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.seconds["optimiser"].append(time.perf_counter() - self._start)

    def _timed(self, name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name].append(time.perf_counter() - start)
            return result

        return call


def product_flops(base: PreTrainedConfig) -> int:
    """FLOPs of the three products of `products`."""
    return 3 * 2 * ROWS * LENGTH * base.hidden_size * base.intermediate_size


def products(base: PreTrainedConfig, repeats: int) -> Callable[[], None]:
    """The products of one projection of the MLP, forward and backward, into existing tensors."""
    sizes = ROWS * LENGTH, base.hidden_size, base.intermediate_size
    tokens, hidden, wide = sizes
    narrow, weight, output = (
        torch.randn(shape).bfloat16()
        for shape in ((tokens, hidden), (wide, hidden), (tokens, wide))
    )
    to_output, to_narrow, to_weight = map(torch.empty_like, (output, narrow, weight))

    def run() -> None:
        for _ in range(repeats):
            torch.mm(narrow, weight.t(), out=to_output)
            torch.mm(output, weight, out=to_narrow)
            torch.mm(output.t(), narrow, out=to_weight)

    return run


if __name__ == "__main__":
    main()
