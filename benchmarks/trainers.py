"""Compares our trainings with other trainers: tokens a second, and peak memory.

- `sft` and TRL's SFTTrainer, padded and packed. TRL's way to pack is here `padding_free`, which
  puts the rows of a batch end to end, as ours does. Without TRL this part is left out.
- `moe_sft` and transformers' Trainer with its Qwen2-MoE, padded. Both mixtures have random weights
  and the same shape: that of the model with at most 6 layers, 8 experts with the shared one, and 6
  of them for each token.

In fp32, and in bf16 with weights in fp32. Both ways have the same rows in each step, the same
learning rate and optimiser, no clipping and no activation checkpointing. The losses of the step
before the last are shown: those of `sft` and TRL differ by rounding alone.

Each way trains in its own process, ours as a step does. The processes take turns, one optimiser
step at a time. Tokens are those without padding. speed, processor time and memory: ours relative to
the other way, the speed as the median over the steps, the processor time for a token. Memory is the
most RssAnon of the process; on a GPU it is the most that torch allocated.

Usage: python -m benchmarks.trainers [--model DIR] [--data FILE] [--threads N] [--steps N]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Qwen2Config,
    Qwen2MoeConfig,
    Trainer,
    TrainingArguments,
    logging,
)

from benchmarks.stepwise import WARMUP, StepwiseProcess, make_trainer
from benchmarks.timing import interleaved, markdown_table, relative_speed
from benchmarks.utilisation import MOE
from xft.cli.running import ENVIRONMENT
from xft.common.optional import is_installed
from xft.common.system import reuse_freed_memory
from xft.config.sections import MoeSftConfig, TokensConfig
from xft.data.preparation import prepare
from xft.data.tokenizers import load_tokenizer
from xft.modeling.configuration import XftConfig

PRECISIONS = ("fp32", "bf16")
LEARNING_RATE = 1e-5
MOST_LAYERS = 6  # of a mixture
SHAPE = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "tie_word_embeddings"),
)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trainers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("resources/base"), help="Dense model.")
    parser.add_argument("--data", type=Path, default=Path("resources/instructions.jsonl"))
    parser.add_argument("--max-length", type=int, default=512, help="Default: 512.")
    parser.add_argument("--batch", type=int, default=4, help="Rows of a batch. Default: 4.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--steps", type=int, default=8, help="Timed steps. Default: 8.")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    args = parser.parse_args()
    report(args, args.precisions)


def report(args: argparse.Namespace, precisions: Sequence[str] = PRECISIONS) -> None:
    """Print a table with a line for each case, as soon as it is measured."""
    print(f"{args.batch} rows of at most {args.max_length} tokens, {args.threads} threads\n")
    if not is_installed("trl"):
        print("TRL is left out: uv pip install --group slow brings it\n")
    print(markdown_table(HEADER, []), flush=True)
    for name, other, own, batching in CASES:
        if other is not tuned_by_trl or is_installed("trl"):
            for precision in precisions:
                figures = compare(other, own, (batching, precision, args))
                print(f"| {name}, {batching}, {precision} | {' | '.join(figures)} |", flush=True)


def compare(other: Callable, own: Callable, given: tuple) -> list[str]:
    """The columns of a case after its name."""
    with tempfile.TemporaryDirectory() as name:
        theirs = StepwiseProcess(other, *given, Path(name), variables={})
        ours = StepwiseProcess(own, *given, Path(name), variables=ENVIRONMENT)
        ways = {"theirs": theirs, "ours": ours}
        cases = {name: process.step for name, process in ways.items()}
        seconds = interleaved(cases, given[-1].steps, WARMUP)
        for process in ways.values():
            process.finish()
    steps = given[-1].steps
    speeds = [
        process.timed("tokens") / steps / statistics.median(seconds[name])
        for name, process in ways.items()
    ]
    efforts = [process.timed("processor") / process.timed("tokens") for process in ways.values()]
    return [
        *(f"{speed:.0f}" for speed in speeds),
        f"{relative_speed(seconds, 'ours', 'theirs'):.2f}",
        f"{efforts[1] / efforts[0]:.2f}",
        *(f"{process.peak / MIB:.0f}" for process in ways.values()),
        f"{ours.peak / theirs.peak:.2f}",
        *(f"{process.reports[-1].loss:.4f}" for process in ways.values()),
    ]


def tuned(batching: str, precision: str, args, folder: Path) -> Trainer:
    return our_trainer(load(args), batching, precision, args, folder)


def tuned_by_trl(batching: str, precision: str, args, folder: Path) -> Trainer:
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer

    tokenizer, examples = prepared(args)
    disable_progress_bars()
    options = SFTConfig(
        **settings(precision, args, folder),
        max_length=None,  # the rows are cut already
        padding_free=batching == "packed",
        activation_checkpointing=False,  # by default it computes activations again
    )
    rows = Dataset.from_list(without_numbers(examples))
    return silent(SFTTrainer(load(args), options, train_dataset=rows, processing_class=tokenizer))


def mixture(batching: str, precision: str, args, folder: Path) -> Trainer:
    base = Qwen2Config(**shape(args.model)).to_dict()
    config = XftConfig.from_dict({"model_type": "xft", "base_config": base, **MOE})
    return our_trainer(random_model(config), batching, precision, args, folder)


def qwen2_moe(batching: str, precision: str, args, folder: Path) -> Trainer:
    """The shared expert stands beside the others: its weight is no part of theirs."""
    sizes = shape(args.model)
    config = Qwen2MoeConfig(
        **sizes,
        moe_intermediate_size=sizes["intermediate_size"],
        shared_expert_intermediate_size=sizes["intermediate_size"],
        num_experts=MOE["num_experts"] - 1,
        num_experts_per_tok=MOE["num_experts_per_tok"] - 1,
        output_router_logits=True,  # the loss has a balance loss, as ours
    )
    tokenizer, examples = prepared(args)
    return silent(
        Trainer(
            random_model(config),
            TrainingArguments(**settings(precision, args, folder)),
            train_dataset=without_numbers(examples),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        )
    )


def our_trainer(model, batching: str, precision: str, args, folder: Path) -> Trainer:
    reuse_freed_memory()
    tokenizer, examples = prepared(args)
    options = MoeSftConfig(
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=args.batch,
        max_steps=WARMUP + args.steps,
        precision=precision,
        batching=batching,
    )
    return make_trainer(model, examples, tokenizer, options, folder, None)


def settings(precision: str, args, folder: Path) -> dict:
    """The arguments of transformers' Trainer that are equal to ours."""
    return {
        "output_dir": str(folder),
        "learning_rate": LEARNING_RATE,
        "per_device_train_batch_size": args.batch,
        "max_steps": WARMUP + args.steps,
        "bf16": precision == "bf16",
        "max_grad_norm": 0.0,
        "seed": 0,
        "data_seed": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def prepared(args) -> tuple:
    """The tokenizer, with a padding token, and rows for all steps. Sets up the process."""
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    tokenizer = load_tokenizer(args.model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = args.batch * (WARMUP + args.steps)
    options = TokensConfig(limit=2 * rows, max_length=args.max_length)
    return tokenizer, prepare([args.data], tokenizer, options)[0].training


def without_numbers(examples) -> list[dict]:
    return [{key: row[key] for key in ("input_ids", "labels")} for row in examples]


def silent(trainer: Trainer) -> Trainer:
    trainer.remove_callback(PrinterCallback)
    return trainer


def load(args):
    return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)


def random_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def shape(model: Path) -> dict:
    config = AutoConfig.from_pretrained(model)
    layers = min(config.num_hidden_layers, MOST_LAYERS)
    return {name: getattr(config, name) for name in SHAPE} | {"num_hidden_layers": layers}


CASES = (
    ("TRL", tuned_by_trl, tuned, "padded"),
    ("TRL", tuned_by_trl, tuned, "packed"),
    ("Qwen2-MoE", qwen2_moe, mixture, "padded"),
)
HEADER = (
    *("", "tokens/s", "ours", "speed", "processor time"),
    *("peak MiB", "ours", "memory", "loss", "ours"),
)

if __name__ == "__main__":
    main()
