"""Steps that would measure for ever, in processes of their own, and the signals that end them."""

import os
import subprocess
from pathlib import Path

from fork_server import PYTHON

REPOSITORY = Path(__file__).parents[1]
MEASURES_FOR_EVER = """
import sys
import {module} as module
from xft.cli import running
from workflow_scripts import {step} as step

def for_ever(*arguments, **options):
    print("begun", flush=True)
    while True:
        measure(*arguments, **options)

measure, module.{function} = module.{function}, for_ever
running.run("{step}", lambda _: step.main(sys.argv[1:]))
"""


def end_by(number: int, step: str, function: str, arguments: list) -> None:
    """Send a signal to a step within a function, by its dotted name, that it calls without end.

    The step, a fork of the server, ends with the signal's exit status, and without a stack trace.
    """
    module, _, function = function.rpartition(".")
    code = MEASURES_FOR_EVER.format(module=module, step=step, function=function)
    with subprocess.Popen(
        [PYTHON, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
