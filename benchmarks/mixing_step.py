"""Compares an optimiser step of the mixing model with dense fine-tuning and the published form.

Each way runs 8 micro-batches and then an AdamW step, in fp32 on the CPU, on a small random Llama
with 8 experts in bf16:

- mixing: this project's Mixing, which merges the weights once per optimiser step;
- dense: fine-tuning of all parameters of a dense model of the same shape;
- published: mixing logits too, but with the experts in memory in fp32. Autograd builds the merged
  weights again in every micro-batch.

Times: the ways run alternately in one process. Memory: the peak of RssAnon in /proc/PID/status,
with a process for each way, minus the memory of the imports. RssAnon is anonymous memory:
memory-mapped files are page cache and do not count.

The exit status is 1 if the speed of mixing is below 0.9 of dense, or if mixing holds more memory
than dense plus one layer's experts.

Usage: python -m benchmarks.mixing_step [--threads N] [--repeats N]
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, logging

from benchmarks.peak import peak_memory
from benchmarks.timing import interleaved, speed_table
from workflow_scripts import ffn, moe
from xft.checkpoints.reader import Checkpoint
from xft.conversions.coefficients import initial_logits, mixing_coefficients
from xft.conversions.merged_tensors import merged_tensors
from xft.modeling.mixing import Mixing, MixingLogits

LAYERS_TIMED, LAYERS_WEIGHED = 4, 8
STEPS_WARMING, STEPS_WEIGHED = 2, 3
ACCUMULATION, TOKENS = 8, 256  # a micro-batch is one row
NUM_EXPERTS, LAMBDA = 8, 0.75
LEARNING_RATE = 1e-5
LEAST_SPEED = 0.9  # of dense
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mixing_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--repeats", type=int, default=10, help="Timed steps. Default: 10.")
    args = parser.parse_args()
    prepare_process(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        timed = make_artifacts(Path(folder) / "timed", LAYERS_TIMED)
        fast = report_times(timed, args.repeats)
        weighed = make_artifacts(Path(folder) / "weighed", LAYERS_WEIGHED)
        small = report_memory(weighed, args.threads)
    sys.exit(0 if fast and small else 1)


def prepare_process(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()


def make_artifacts(folder: Path, layers: int) -> Path:
    """Make a random Llama in bf16 in `base`, upcycle it in `moe`, and extract `ffn`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    base, mixture = folder / "base", folder / "moe"
    LlamaForCausalLM(config).bfloat16().save_pretrained(base)
    moe.main(["--base", str(base), "--out", str(mixture), "--num-experts", str(NUM_EXPERTS)])
    ffn.main(["--moe", str(mixture), "--out", str(folder / "ffn")])
    return folder


def mixing_step(folder: Path) -> Callable[[], None]:
    experts = Checkpoint(folder / "ffn")
    logits = MixingLogits(initial_logits(experts, "layer"), LAMBDA)
    mixing = Mixing(Checkpoint(folder / "moe"), experts, logits)
    optimizer = mixing.build_optimizer(torch.optim.AdamW, {"lr": LEARNING_RATE}, None)
    return accumulated_step(mixing.model, optimizer)


def dense_step(folder: Path) -> Callable[[], None]:
    model = dense_model(folder)
    return accumulated_step(model, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE))


def published_step(folder: Path) -> Callable[[], None]:
    checkpoint = Checkpoint(folder / "ffn")
    alpha = initial_logits(checkpoint, "layer").requires_grad_()
    tensors = merged_tensors(Checkpoint(folder / "moe"), checkpoint, alpha.shape)
    experts = [torch.stack(list(tensor.experts())).float() for tensor in tensors]
    model = dense_model(folder).requires_grad_(False)

    def forward(**batch):
        coefficients = mixing_coefficients(alpha, LAMBDA)
        weights = {
            tensor.name: torch.einsum("e,eoi->oi", tensor.coefficients_of(coefficients), stacked)
            for tensor, stacked in zip(tensors, experts, strict=True)
        }
        return torch.func.functional_call(model, weights, (), batch)

    return accumulated_step(forward, torch.optim.AdamW([alpha], lr=LEARNING_RATE))


WAYS = {"mixing": mixing_step, "dense": dense_step, "published": published_step}


def dense_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def accumulated_step(model: Callable, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """An optimiser step and its micro-batches, which are the same for each way."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(8192, (ACCUMULATION, 1, TOKENS), generator=generator)

    def step() -> None:
        for row in rows:
            loss = model(input_ids=row, labels=row, use_cache=False).loss
            (loss / ACCUMULATION).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def report_times(folder: Path, repeats: int) -> bool:
    """Print the time of a step of each way. Returns whether mixing is fast enough."""
    cases = {name: make_step(folder) for name, make_step in WAYS.items()}
    seconds = interleaved(cases, repeats, STEPS_WARMING)
    print(f"{LAYERS_TIMED} layers, {ACCUMULATION} x {TOKENS} tokens, fp32")
    print(speed_table(seconds, baseline="dense"))
    speed = statistics.median(seconds["dense"]) / statistics.median(seconds["mixing"])
    print(f"mixing is at least {LEAST_SPEED} as fast as dense: {speed >= LEAST_SPEED}\n")
    return speed >= LEAST_SPEED


def report_memory(folder: Path, threads: int) -> bool:
    """Print the peak memory of each way. Returns whether the memory of mixing is low enough."""
    peaks = {name: peak_memory(partial(prepared_way, name, folder, threads)) for name in WAYS}
    experts = Checkpoint(folder / "ffn")
    layer = sum(experts.get(name).nbytes for name in experts.names) / LAYERS_WEIGHED
    print(f"{LAYERS_WEIGHED} layers, one layer's experts take {layer / MIB:.0f} MiB")
    print("| way | peak, MiB |\n| :-- | --: |")
    for name, value in peaks.items():
        print(f"| {name} | {value / MIB:.0f} |")
    enough = peaks["mixing"] <= peaks["dense"] + layer
    print(f"mixing holds at most dense and one layer's experts: {enough}")
    return enough


def prepared_way(name: str, folder: Path, threads: int) -> Callable[[], None]:
    """A function that builds a way and runs some of its steps."""
    prepare_process(threads)

    def work() -> None:
        step = WAYS[name](folder)
        for _ in range(STEPS_WEIGHED):
            step()

    return work


if __name__ == "__main__":
    main()
