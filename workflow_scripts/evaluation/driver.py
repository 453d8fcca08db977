"""Runs EvalPlus beside model-written code. Started by scoring.py, most often in a sandbox.

    python -I driver.py FORM SAMPLES WORKERS DESCRIPTOR

FORM is humaneval or mbpp; EvalPlus finds the problems by its override variable. The statuses go to
the open file DESCRIPTOR as JSON: {task_id: [base status, plus status]}. Needs EvalPlus only.
"""

import json
import os
import shutil
import sys
import tempfile
import traceback
from types import SimpleNamespace

# EvalPlus's own limits (1 s, factor 4) fail correct solutions on a busy machine.
MIN_TIME_LIMIT = 10.0
GT_TIME_LIMIT_FACTOR = 10.0


def main(form: str, samples: str, workers: int, descriptor: int) -> None:
    close_in_forks(descriptor)
    results = judge(form, samples, workers)
    statuses = {
        task_id: [rows[0]["base_status"], rows[0]["plus_status"]]
        for task_id, rows in results["eval"].items()
    }
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(statuses, file)


def close_in_forks(descriptor: int) -> None:
    """Keep the descriptor from the processes that run model-written code: forks of this one."""
    held = [descriptor]

    def close():
        while held:  # a fork's own forks find it empty, and close nothing else by that number
            os.close(held.pop())

    os.register_at_fork(after_in_child=close)


def judge(form: str, samples: str, workers: int) -> dict:
    """EvalPlus's results, as it is about to write them.

    They are taken from memory: a file is in reach of the code that is being judged. EvalPlus writes
    none where one is there already, so a forged file ends in an error here.
    """
    import evalplus.evaluate

    written = []
    evalplus.evaluate.json = SimpleNamespace(dump=lambda results, file: written.append(results))
    own_samples = shutil.copy(samples, tempfile.mkdtemp())
    evalplus.evaluate.evaluate(
        form,
        own_samples,
        parallel=workers,
        min_time_limit=MIN_TIME_LIMIT,
        gt_time_limit_factor=GT_TIME_LIMIT_FACTOR,
    )
    if len(written) != 1:
        raise RuntimeError("EvalPlus wrote no results: code under test put a file in their place")
    return written[0]


if __name__ == "__main__":
    status = 1
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not a plain exit: EvalPlus leaves a thread behind that sleeps for up to 20 s, or for good.
    os._exit(status)
