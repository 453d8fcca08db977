"""A merge by a function of the user's: `my_merge.py:ties` names a file and a function in it.

    def ties(tensors, coefficients, base):  # returns the merged tensor

tensors: the experts' tensors, a list of 1 + R in fp32, the shared expert's first.
coefficients: their shares, [1 + R] in fp32, which sum to one.
base: the same tensor of the dense base, in fp32.

It is called once for each tensor of an upcycled MLP, with copies that it may change.
"""

import ast
import traceback
from collections.abc import Callable
from pathlib import Path

from xft.common.errors import UserError, did_you_mean
from xft.common.user_program import load_program, parsed, program_files

PARAMETERS = ["tensors", "coefficients", "base"]


def check_function(file: Path, name: str) -> None:
    """Raise UserError if a file defines no such function, or as `program_files`. It is not run."""
    functions = {node.name: node for node in parsed(file).body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise UserError(f"{file} defines no function {name}{did_you_mean(name, functions)}")
    if [argument.arg for argument in functions[name].args.args] != PARAMETERS:
        raise UserError(f"{file}: {name} must have the parameters {', '.join(PARAMETERS)}")
    program_files(file)


def load_function(file: Path, name: str) -> Callable:
    """The function of a file. Raises UserError if the file cannot be run."""
    check_function(file, name)
    try:
        return getattr(load_program(file), name)
    except Exception as error:
        raise UserError(fault_in(error, file)) from None


def fault_in(error: Exception, file: Path) -> str:
    """An exception with its last line in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    where = f"{file}, line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
