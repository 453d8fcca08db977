"""Compares the conversions with `cp`: wall time and peak memory, with TinyLlama-1.1B's shape.

It makes a dense model of random bf16 weights for moe, ffn, weighted_init and dense. Each step runs
as a user would run it: in its own process, with start-up and hashing. After each run, `cp` copies
the same number of bytes to another place on the same disk, followed by `sync`. The table shows
medians.

- The same bytes: the step's output. dense writes an eighth of what it reads, and ffn makes links:
  for these they are the mixture.
- Before each run and each cp, the benchmark writes to all free memory and reads the input files
  once. A virtual machine may have given free memory back to its host. The next process that writes
  to that memory waits. This made either the step or cp twice as slow as the other.
- weighted_init writes some kilobytes: its time is the start-up and the check of its inputs.
- Memory: RssAnon of the process, polled every 10 ms. It does not count the page cache, which memory
  maps fill and the kernel can take back.

It needs disk space for three mixtures: 39 GB for 22 layers, 76 GB for 44.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from benchmarks.timing import markdown_table
from xft.checkpoints.writer import TensorSpec, write_checkpoint

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 4, 32000
NUM_EXPERTS = 8
BF16_BYTES = 2
POLL_SECONDS = 0.01
STD = 0.02
SPARED = 10**9  # bytes left free for other processes while memory is filled
FILL = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]))
for _ in range(len(memory) >> 20):
    memory.write(bytes(2**20))
"""
FFN = {
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
REST = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "self_attn.v_proj": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
OUTSIDE = {
    "model.embed_tokens": (VOCABULARY, HIDDEN),
    "model.norm": (HIDDEN,),
    "lm_head": (VOCABULARY, HIDDEN),
}


DENSE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCABULARY,
}


@dataclass(frozen=True)
class Step:
    """A conversion. inputs: artifacts, each passed after its `flag`. moved: what cp copies."""

    name: str
    inputs: tuple[str, ...]
    moved: str
    flags: tuple[str, ...] = ()


STEPS = (
    Step("moe", ("base",), "moe", flags=(f"--num-experts={NUM_EXPERTS}",)),
    Step("ffn", ("moe",), "moe"),
    Step("weighted_init", ("moe", "ffn"), "weighted_init", flags=("--lam=0.75",)),
    Step("dense", ("weighted_init", "moe", "ffn"), "moe"),
)


@dataclass
class Times:
    """Seconds of each run of a step and of cp; bytes of its output, and peak of memory."""

    step: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    size: int = 0
    peak: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=int, default=22, help="Default: 22.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=3, help="Timed rounds. Default: 3.")
    args = parser.parse_args()
    check_space(args.folder, args.layers)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        rows = measure(Path(place), args.layers, args.repeats)
    print(f"\n{args.layers} layers, {NUM_EXPERTS} experts, medians of {args.repeats}\n")
    header = ("step", "GB of output", "seconds", "cp + sync", "ratio", "peak RssAnon, MB")
    print(markdown_table(header, rows))


def check_space(folder: Path, layers: int) -> None:
    """End the program if the disk is too small for three mixtures."""
    layer = NUM_EXPERTS * parameters(FFN) + parameters(REST)
    needed = 3 * BF16_BYTES * (layers * layer + parameters(OUTSIDE))
    free = shutil.disk_usage(folder).free
    if free < needed:
        missing = f"{(needed - free) / 1e9:.1f} of {needed / 1e9:.1f} GB are missing"
        sys.exit(f"{folder}: {missing}. Choose a larger disk with --folder, or fewer --layers")


def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def measure(place: Path, layers: int, repeats: int) -> list[tuple[str, ...]]:
    """Run all steps, print their times, and return a row of the table for each."""
    rows = []
    make_model(place / "model", layers, FFN | REST, DENSE_CONFIG)
    run_step("base", place / "base", ["--model", str(place / "model")])
    for step in STEPS:
        rows.append(measured_row(step, place, repeats))
        if step.name == "moe":
            remove(place / "model")
    return rows


def measured_row(step: Step, place: Path, repeats: int) -> tuple[str, ...]:
    times = measure_step(step, place, repeats)
    print(step.name, times, file=sys.stderr, flush=True)
    return row(step, times)


def make_model(
    folder: Path, layers: int, in_layer: dict[str, tuple[int, ...]], config: dict
) -> None:
    """Write a model of random weights, tensor by tensor. in_layer: their shapes in one layer."""
    shapes = OUTSIDE | {
        f"model.layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in in_layer.items()
    }
    folder.mkdir()
    plans = [
        TensorSpec(f"{name}.weight", "BF16", shape, weights(shape))
        for name, shape in shapes.items()
    ]
    write_checkpoint(folder, plans)
    config = config | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(BPE()).save(str(folder / "tokenizer.json"))


def weights(shape: tuple[int, ...]) -> Callable[[], list[torch.Tensor]]:
    return lambda: [torch.empty(shape, dtype=torch.bfloat16).normal_(std=STD)]


def measure_step(step: Step, place: Path, repeats: int) -> Times:
    """Run a step and cp alternately. The step's last output stays."""
    out, copy, times = place / step.name, place / "copy", Times()
    words = [word for name in step.inputs for word in (flag(name), str(place / name))]
    for _ in range(repeats):
        remove(out)
        prepare(place / name for name in step.inputs)
        seconds, peak = run_step(step.name, out, [*words, *step.flags])
        times.step.append(seconds)
        times.peak = max(times.peak, peak)
        remove(copy)
        prepare([place / step.moved])
        times.copy.append(timed('cp -r "$0" "$1" && sync', place / step.moved, copy))
    remove(copy)
    times.size = sum(path.stat().st_size for path in out.iterdir())
    return times


def flag(artifact: str) -> str:
    return "--" + artifact.removesuffix("_init")


def remove(out: Path) -> None:
    """Remove an artifact or a copy of one, if it exists."""
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f"{out.name}.manifest.json").unlink(missing_ok=True)


def prepare(folders: Iterable[Path]) -> None:
    """Write to all free memory, read these folders' files, and sync the disk."""
    subprocess.run([sys.executable, "-c", FILL, str(available_memory() - SPARED)], check=True)
    for folder in folders:
        timed('cat "$0"/* > /dev/null', folder)
    os.sync()


def available_memory() -> int:
    """Bytes that a process can use without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def timed(script: str, *arguments: Path) -> float:
    """Seconds of a shell script with these arguments, the first as $0."""
    start = time.perf_counter()
    subprocess.run(["sh", "-c", script, *map(str, arguments)], check=True)
    return time.perf_counter() - start


def run_step(name: str, out: Path, words: list[str]) -> tuple[float, int]:
    """Run a step or tool as a process. Returns its seconds, and its peak of anonymous memory."""
    command = [sys.executable, "-m", f"workflow_scripts.{name}", *words, "--out", str(out)]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(POLL_SECONDS)
    if process.returncode != 0:
        sys.exit(f"{name} failed with exit status {process.returncode}")
    return time.perf_counter() - start, peak


def anonymous_memory(process_id: int) -> int:
    """RssAnon of a process in bytes; 0 once it has ended."""
    status = Path(f"/proc/{process_id}/status").read_text()
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(lines[0].split()[1]) if lines else 0


def row(step: Step, times: Times) -> tuple[str, ...]:
    """The cells of a step's row. A step whose output is below a megabyte has no ratio."""
    rounds = zip(times.step, times.copy, strict=True)
    ratio = statistics.median(own / copy for own, copy in rounds)
    return (
        step.name,
        f"{times.size / 1e9:.2f}",
        f"{statistics.median(times.step):.1f}",
        f"{statistics.median(times.copy):.1f}",
        f"{ratio:.2f}" if times.size > 1e6 else "",
        f"{times.peak / 1e6:.0f}",
    )


if __name__ == "__main__":
    main()
