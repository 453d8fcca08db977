"""A training that a benchmark times step by step."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import NamedTuple
from unittest.mock import patch

import torch
from transformers import Trainer, TrainerCallback

from benchmarks.peak import anonymous_memory
from benchmarks.timing import synchronize
from xft.training.features import SaveCallback, StopRequest
from xft.training.metrics import Throughput
from xft.training.saving import Checkpoints
from xft.training.trainer import ResumingTrainer, Training

WARMUP = 2  # steps that do not count
SECONDS_BETWEEN_SAMPLES = 0.005


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


class StepReport(NamedTuple):
    """Of all steps so far: real tokens, processor time, peak memory of a GPU. loss: the last."""

    tokens: int
    processor: float
    gpu: int
    loss: float


class StepwiseProcess:
    """A training in its own process that advances by one optimiser step at a time.

    make(*given) makes the trainer there, which logs each step. variables: of its environment. peak:
    the most anonymous memory of the process in bytes; on a GPU, the most that torch allocated.
    """

    def __init__(self, make: Callable[..., Trainer], *given, variables: dict[str, str]):
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, make, *given), daemon=True)
        with patch.dict(os.environ, variables):
            self._process.start()
        theirs.close()
        self.peak = 0
        self.reports: list[StepReport] = []
        self._wait()

    def step(self) -> None:
        self._pipe.send("go")
        self.reports.append(StepReport(*self._wait()))
        self.peak = self.reports[-1].gpu or self.peak

    def timed(self, name: str) -> float:
        """The tokens or the processor seconds of the timed steps."""
        return getattr(self.reports[-1], name) - getattr(self.reports[WARMUP - 1], name)

    def finish(self) -> None:
        self._pipe.send("go")
        self._process.join()

    def _wait(self):
        while not self._pipe.poll(SECONDS_BETWEEN_SAMPLES):
            self.peak = max(self.peak, anonymous_memory(self._process.pid))
        try:
            return self._pipe.recv()
        except EOFError:
            sys.exit("a training has failed")


def _train(pipe, make: Callable[..., Trainer], *given) -> None:
    trainer = make(*given)
    turns = _Turns(pipe)
    trainer.add_callback(turns)
    trainer.training_step = turns.counting(trainer.training_step)
    trainer.train()


class _Turns(TrainerCallback):
    """Waits for the other end of a pipe before each step, and reports after it."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.throughput = Throughput()

    def counting(self, training_step: Callable) -> Callable:
        def step(model, inputs, *rest):
            self.throughput.count([inputs])
            return training_step(model, inputs, *rest)

        return step

    def on_train_begin(self, args, state, control, **kwargs):
        self.pipe.send("ready")
        self.pipe.recv()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        loss = state.log_history[-1]["loss"] if state.log_history else math.nan
        self.pipe.send((self.throughput.tokens, time.process_time(), gpu, loss))
        self.pipe.recv()
