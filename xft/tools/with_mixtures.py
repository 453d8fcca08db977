"""Run a program such as lm_eval, trl or a script of your own, so that it can load mixtures.

The processes that it starts can load them, too.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from xft.cli.step import StepParser
from xft.common.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft with-mixtures", __doc__)
    meaning = "The command with its arguments. A name that ends in .py is a script's."
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=meaning)
    words = parser.parse_args(argv).command or [""]
    if words[0].endswith(".py"):
        words.insert(0, sys.executable)
    here = Path(sys.executable).parent
    program = shutil.which(words[0], path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise UserError(f"{words[0]!r} is no program in {here} or on PATH. Name another one")
    places = [str(Path(__file__).with_name("at_start"))]
    if os.environ.get("PYTHONPATH"):
        places.append(os.environ["PYTHONPATH"])
    os.execve(program, words, os.environ | {"PYTHONPATH": os.pathsep.join(places)})
