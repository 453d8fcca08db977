"""Lets a training wait, so that a test can stop it there at any pace of the machine.

Python imports this first where its folder is on PYTHONPATH. The file that PAUSE names holds the
name of a step and a number: as long as it does, that step waits before it trains on that number.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path


def pause(file: Path, step: str) -> None:
    from xft.training.callbacks import ProgressCallback

    def on_step_begin(self, args, state, control, **kwargs):
        with suppress(FileNotFoundError):
            while file.read_text() == f"{step} {state.global_step + 1}":
                time.sleep(0.05)

    ProgressCallback.on_step_begin = on_step_begin


STEP = next((w for w in sys.orig_argv if w.startswith("workflow_scripts.")), "").partition(".")[2]
if "PAUSE" in os.environ and STEP in ("moe_sft", "weighted_trained"):
    pause(Path(os.environ["PAUSE"]), STEP)
