"""Lets a step wait, so that a test can stop it there at any pace of the machine.

Python imports this first where its folder is on PYTHONPATH. The file that PAUSE names holds the
name of a step and a number: as long as it does, that step waits before it trains on that number, or
after it has written that many solutions. It makes the file's sibling `waits` first.
"""

import os
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path


def wait_at(number: int) -> None:
    file = Path(os.environ["PAUSE"])
    with suppress(FileNotFoundError):
        while file.read_text() == f"{STEP} {number}":
            file.with_name("waits").touch()
            time.sleep(0.05)


def pause_training() -> None:
    from xft.training.metrics import ProgressCallback

    def on_step_begin(self, args, state, control, **kwargs):
        wait_at(state.global_step + 1)

    ProgressCallback.on_step_begin = on_step_begin


def pause_evaluation() -> None:
    from xft.evaluation.sampling import Journal

    def add(self, number, completion):
        whole(self, number, completion)
        wait_at(len(self.path.read_text().splitlines()) - 1)  # the first line says what it is of

    whole, Journal.add = Journal.add, add


PAUSES = {"moe_sft": pause_training, "eval": pause_evaluation}
MODULE = next((word for flag, word in pairwise(sys.orig_argv) if flag == "-m"), "")
STEP = MODULE.removeprefix("workflow_scripts.")
if "PAUSE" in os.environ and STEP in PAUSES:
    PAUSES[STEP]()
