"""Lets a step wait, so that a test can stop it there at any pace of the machine.

Python imports this first where its folder is on PYTHONPATH. The file that PAUSE names holds the
name of a step and a number: as long as it does, that step waits before it trains on that number, or
after it has written that many solutions. At 0 it waits before it writes a model's tensors. It makes
the file's sibling `waits` first.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import wrapt


def wait_at(number: int) -> None:
    file = Path(os.environ["PAUSE"])
    with suppress(FileNotFoundError):
        while file.read_text() == f"{Path(sys.argv[0]).stem} {number}":
            file.with_name("waits").touch()
            time.sleep(0.05)


@wrapt.when_imported("xft.training.metrics")
def pause_training(metrics) -> None:
    def on_step_begin(self, args, state, control, **kwargs):
        wait_at(state.global_step + 1)

    metrics.ProgressCallback.on_step_begin = on_step_begin


@wrapt.when_imported("xft.evaluation.sampling")
def pause_evaluation(sampling) -> None:
    def add(self, number, completion):
        whole(self, number, completion)
        wait_at(len(self.path.read_text().splitlines()) - 1)  # the first line says what it is of

    whole, sampling.Journal.add = sampling.Journal.add, add


@wrapt.when_imported("xft.artifacts.artifact")
def pause_writing(artifact) -> None:
    def write_checkpoint(folder, specs):
        wait_at(0)
        return whole(folder, specs)

    whole, artifact.write_checkpoint = artifact.write_checkpoint, write_checkpoint
