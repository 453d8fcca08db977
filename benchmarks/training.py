"""Measures the tokens per second of steps 2 and 6 for each `batching`, and compares a bare loop.

- padded, by_length, packed: the step's own loop with this `batching`: the Trainer, its data
  loading, progress and metrics;
- bare: the same model, optimiser and batches as padded, with batches made beforehand: only forward
  pass, backward pass and optimiser step.

All ways train alternately, one optimiser step at a time, in one process. `benchmarks.trainers` with
the same rows follows. On a GPU, the share of its peak that step 2 reaches at the size of
DeepSeek-Coder-1.3B follows. The exit status is 1 if the speed of padded is below 0.95 of bare.

Usage: python -m benchmarks.training [--model DIR] [--data FILE] [--threads N] [--steps N]
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, logging

from benchmarks import trainers, utilisation
from benchmarks.stepwise import WARMUP, Stepwise, make_trainer
from benchmarks.timing import interleaved, markdown_table, relative_speed
from workflow_scripts import ffn, moe
from xft.checkpoints.reader import Checkpoint
from xft.config.sections import MoeSftConfig, TokensConfig
from xft.conversions.coefficients import initial_logits
from xft.data.preparation import prepare
from xft.data.tokenizers import load_tokenizer
from xft.modeling.mixing import Mixing, MixingLogits
from xft.training.losses import LabelledLoss
from xft.training.trainer import ResumingTrainer

BATCHING = ("packed", "by_length", "padded")
LEAST_SPEED = 0.95  # of bare
LAMBDA = 0.75


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path("resources/base"), help="Dense model.")
    parser.add_argument("--data", type=Path, default=Path("resources/instructions.jsonl"))
    parser.add_argument("--max-length", type=int, default=384, help="Default: 384.")
    parser.add_argument("--batch", type=int, default=16, help="Rows of a batch. Default: 16.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch. Default: 1.")
    parser.add_argument("--steps", type=int, default=24, help="Timed steps. Default: 24.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        fast = [bench.report("step 2", bench.tuned), bench.report("step 6", bench.mixed)]
    trainers.report(args)
    if torch.cuda.is_available():
        utilisation.report()
    else:
        print("There is no GPU, so the share of its peak was not measured.")
    sys.exit(0 if all(fast) else 1)


class Bench:
    """The artifacts and rows that all trainings share."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.folder = folder
        self.steps = args.steps
        moe.main(["--base", str(args.model), "--out", str(folder / "moe")])
        ffn.main(["--moe", str(folder / "moe"), "--out", str(folder / "ffn")])
        self.tokenizer = load_tokenizer(folder / "moe")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        data = TokensConfig(limit=args.steps * args.batch, max_length=args.max_length)
        self.examples = prepare([args.data], self.tokenizer, data)[0].training
        self.options = MoeSftConfig(
            learning_rate=1e-4,
            per_device_train_batch_size=args.batch,
            max_steps=WARMUP + args.steps,
        )

    def report(self, name: str, make_learner: Callable) -> bool:
        """Print the speed of each way. Returns whether the step's own loop is fast enough."""
        trainers = {way: self.trainer(way, *make_learner()) for way in BATCHING}
        cases = {way: Stepwise(trainer) for way, trainer in trainers.items()}
        bare = self.bare_step(trainers["padded"], *make_learner())
        # In a thread like the others: malloc works differently in the main thread.
        with ThreadPoolExecutor(1) as thread:
            ways = {way: case.step for way, case in cases.items()}
            ways["bare"] = lambda: thread.submit(bare).result()  # after padded, with warm caches
            seconds = interleaved(ways, self.steps, WARMUP)
        for case in cases.values():
            case.finish()
        speeds = {way: case.tokens / sum(seconds[way]) for way, case in cases.items()}
        rows = [
            (
                way,
                f"{speeds[way]:.0f}",
                f"{speeds[way] / speeds['padded']:.2f}",
                f"{case.throughput.padding:.1%}",
            )
            for way, case in cases.items()
        ]
        print(f"\n{name}\n")
        header = ("", "tokens/s", "speed (padded = 1)", "padding")
        print(markdown_table(header, rows))
        speed = relative_speed(seconds, "padded", "bare")
        print(f"\npadded is {speed:.3f} as fast as bare (at least {LEAST_SPEED})", flush=True)
        return speed >= LEAST_SPEED

    def tuned(self) -> tuple:
        return AutoModelForCausalLM.from_pretrained(self.folder / "moe"), None

    def mixed(self) -> tuple:
        experts = Checkpoint(self.folder / "ffn")
        logits = MixingLogits(initial_logits(experts, "layer"), LAMBDA)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mixing = Mixing(Checkpoint(self.folder / "moe"), experts, logits, device)
        return mixing.model, mixing

    def trainer(self, batching: str, model, mixing) -> ResumingTrainer:
        options = self.options.model_copy(update={"batching": batching})
        return make_trainer(model, self.examples, self.tokenizer, options, self.folder, mixing)

    def bare_step(self, trainer: ResumingTrainer, model, mixing) -> Callable[[], None]:
        """A function that makes an optimiser step on the next batch of `trainer`."""
        batches = []
        while len(batches) < self.options.max_steps:
            batches += trainer.get_train_dataloader()
        for batch in batches:
            del batch["row"]
        upcoming = iter(batches)
        model.to(trainer.args.device).train()
        model.config.use_cache = False
        kind, settings = ResumingTrainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        if mixing is None:
            optimizer = kind(model.parameters(), **settings)
        else:
            optimizer = mixing.build_optimizer(kind, settings, None)

        loss_of = LabelledLoss(model)

        def step() -> None:
            batch = next(upcoming)
            tokens = (batch["labels"] != -100).sum()
            options = loss_of.options(batch["labels"])
            model(**batch, **options, num_items_in_batch=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


if __name__ == "__main__":
    main()
