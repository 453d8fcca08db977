"""Compares ways to compute the head: at all tokens, at those with a label, and these in chunks.

- whole: transformers' own loss, from the logits of all tokens;
- kept: `training/losses.py` under ZeRO-3: logits where some row of the batch has a label;
- chunks: `training/losses.py` in all other trainings;
- unblocked: the same, with the softmax of a whole chunk at once.

Each way runs forward and backward passes in fp32, of a random model with the shape of
Qwen2.5-Coder-0.5B, but with 4 of its 24 layers. The first tokens of each row are a prompt without
labels. There is no optimiser, which is the same for all ways.

Times: the ways run alternately in one process. Memory: the peak of RssAnon in /proc/PID/status,
with a process for each way, minus the memory of the model.

Usage: python -m benchmarks.head [--layers N] [--rows N] [--length N] [--prompt SHARE] [--repeats N]
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.peak import peak_memory
from benchmarks.timing import interleaved, markdown_table, relative_speed
from xft.common.system import reuse_freed_memory
from xft.config.training import BLOCK_LOGITS
from xft.data.tokenized_rows import IGNORED
from xft.training import losses
from xft.training.losses import LabelledLoss

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=int, default=4, help="Default: 4; published: 24.")
    parser.add_argument("--rows", type=int, default=2, help="Rows of a batch. Default: 2.")
    parser.add_argument("--length", type=int, default=512, help="Tokens of a row. Default: 512.")
    parser.add_argument("--prompt", type=float, default=0.4, help="Share. Default: 0.4.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--repeats", type=int, default=3, help="Timed passes. Default: 3.")
    args = parser.parse_args()
    peaks = {way: peak_memory(partial(make_pass, way, args)) for way in WAYS}
    passes = {way: make_pass(way, args) for way in WAYS}
    seconds = interleaved(passes, args.repeats, warmup=1)
    tokens = args.rows * args.length * args.repeats
    print(f"{args.layers} layers, {args.rows} x {args.length} tokens, {args.prompt:.0%} prompts")
    rows = [
        (
            way,
            f"{tokens / sum(seconds[way]):.1f}",
            f"{relative_speed(seconds, way, 'whole'):.2f}",
            f"{peaks[way] / MIB:.0f}",
            f"{peaks[way] / peaks['whole']:.2f}",
        )
        for way in WAYS
    ]
    header = ("", "tokens/s", "speed (whole = 1)", "peak, MiB", "peak (whole = 1)")
    print(markdown_table(header, rows))


def whole(model: Qwen2ForCausalLM, labels: torch.Tensor) -> dict:
    return {}


def kept(model: Qwen2ForCausalLM, labels: torch.Tensor) -> dict:
    return LabelledLoss(model, whole_head=False).options(labels)


def chunks(model: Qwen2ForCausalLM, labels: torch.Tensor) -> dict:
    return LabelledLoss(model).options(labels)


def unblocked(model: Qwen2ForCausalLM, labels: torch.Tensor) -> dict:
    return chunks(model, labels)


WAYS = {way.__name__: way for way in (whole, kept, chunks, unblocked)}


def make_pass(way: str, args: argparse.Namespace) -> Callable[[], None]:
    reuse_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=args.layers, **SHAPE))
    ids = torch.randint(SHAPE["vocab_size"], (args.rows, args.length))
    labels = ids.clone()
    labels[:, : round(args.prompt * args.length)] = IGNORED
    options = WAYS[way](model, labels)
    block = sys.maxsize if way == "unblocked" else BLOCK_LOGITS[False]

    def both_passes() -> None:
        losses.BLOCK_LOGITS = {False: block}
        model(ids, labels=labels, use_cache=False, **options).loss.backward()
        model.zero_grad()

    return both_passes


if __name__ == "__main__":
    main()
