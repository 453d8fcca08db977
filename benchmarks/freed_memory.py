"""Compares memory that malloc gives back to the system with memory that it keeps for later tensors.

By default glibc gives the memory of each tensor above 32 MiB back, and the system clears the pages
of the next one. KEPT are the variables with which it keeps all of it (docs/performance.md).

Each way runs forward and backward passes of a tuning in a process of its own, and the processes
take turns. The model has random weights in bf16 and the shape of gemma-3-270m, whose vocabulary of
262,144 tokens makes the tensors large.

It prints the processor seconds of a pass, how often the system handed out pages in it, and the peak
memory of the process.

Usage: python -m benchmarks.freed_memory [--passes N] [--repeats N]
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from benchmarks.timing import markdown_table
from xft.common.system import reuse_freed_memory
from xft.training.losses import LabelledLoss

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
WAYS: dict[str, dict[str, str]] = {"given back": {}, "kept": KEPT}
SHAPE = {
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
ROWS, LENGTH = 2, 384
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.freed_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--passes", type=int, default=3, help="In a process. Default: 3.")
    parser.add_argument("--repeats", type=int, default=3, help="Processes. Default: 3.")
    args = parser.parse_args()
    measurements = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way, variables in WAYS.items():
            os.environ |= variables  # a process reads them when it starts
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measurements[way].append(pool.apply(measure, [args.passes]))
            for name in variables:
                del os.environ[name]
    first = statistics.median(seconds for seconds, _, _ in measurements["given back"])
    rows = []
    for way, of_way in measurements.items():
        seconds, faults, peak = (statistics.median(of_all) for of_all in zip(*of_way, strict=True))
        rows.append(
            (way, f"{seconds:.2f}", f"{seconds / first:.2f}", f"{faults:,.0f}", f"{peak:.2f}")
        )
    header = ("freed memory", "seconds", "time", "page faults", "peak, GiB")
    print(markdown_table(header, rows))


def measure(passes: int) -> tuple[float, float, float]:
    """Processor seconds and page faults of a pass, and the peak memory in GiB."""
    reuse_freed_memory()
    both_passes = make_pass()
    both_passes()
    faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    for _ in range(passes):
        both_passes()
    seconds, usage = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF)
    return seconds / passes, (usage.ru_minflt - faults) / passes, usage.ru_maxrss * 1024 / GIB


def make_pass() -> Callable[[], None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE)).bfloat16()
    ids = torch.randint(SHAPE["vocab_size"], (ROWS, LENGTH))
    options = LabelledLoss(model).options(ids)

    def both_passes() -> None:
        model(ids, labels=ids, use_cache=False, **options).loss.backward()
        model.zero_grad()

    return both_passes


if __name__ == "__main__":
    main()
