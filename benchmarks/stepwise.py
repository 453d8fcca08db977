"""A training that a benchmark times step by step."""

import math
import sys
import threading

from transformers import TrainerCallback

from xft.training.callbacks import SaveCallback, StopRequest
from xft.training.checkpoints import Checkpoints
from xft.training.trainer import ResumingTrainer, Training

WARMUP = 2  # steps that do not count


def make_trainer(model, examples, tokenizer, options, folder, mixing) -> ResumingTrainer:
    """A trainer as in a step: with progress, metrics, and a check whether to save."""
    name = options.batching
    trainer = ResumingTrainer(
        Training(
            model,
            examples,
            tokenizer,
            options,
            0,
            Checkpoints(folder / name, "none", math.inf),
            metrics_file=folder / f"{name}.jsonl",
            mixing=mixing,
        )
    )
    trainer.report(None)
    trainer.add_callback(SaveCallback(math.inf, StopRequest()))
    return trainer


class Stepwise(TrainerCallback):
    """A training in its own thread that advances by one optimiser step at a time.

    Work after a step, such as its metrics, counts to the next step. tokens: real tokens of the
    timed steps.
    """

    def __init__(self, trainer: ResumingTrainer):
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self.throughput = trainer.throughput
        self._tokens: list[int] = []  # up to each step
        trainer.add_callback(self)
        self._thread = threading.Thread(target=self._run, args=(trainer,), daemon=True)
        self._thread.start()

    def step(self) -> None:
        self._go.release()
        self._done.acquire()
        if not self._thread.is_alive():
            sys.exit("a training has failed")
        self._tokens.append(self.throughput.tokens)

    @property
    def tokens(self) -> int:
        return self._tokens[-1] - self._tokens[WARMUP - 1]

    def finish(self) -> None:
        self._go.release()
        self._thread.join()

    def on_step_end(self, args, state, control, **kwargs):
        self._done.release()
        self._go.acquire()

    def _run(self, trainer: ResumingTrainer) -> None:
        self._go.acquire()
        try:
            trainer.train()
        finally:
            self._done.release()
