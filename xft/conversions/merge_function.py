"""A merge by a function of the user's: `my_merge.py:ties` names a file and a function in it.

    def ties(tensors, coefficients, base):  # returns the merged tensor

tensors: the experts' tensors, a list of 1 + R in fp32, the shared expert's first.
coefficients: their shares, [1 + R] in fp32, which sum to one.
base: the same tensor of the dense base, in fp32.

It is called once for each tensor of an upcycled MLP, with copies that it may change.
"""

import ast
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path

from xft.common.errors import UserError, did_you_mean

PARAMETERS = ["tensors", "coefficients", "base"]


def check_function(file: Path, name: str) -> None:
    """Raise UserError if a file defines no function of this name. The file is not run."""
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        body = ast.parse(file.read_bytes(), str(file)).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not valid Python: {error}") from None
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise UserError(f"{file} defines no function {name}{did_you_mean(name, functions)}")
    if [argument.arg for argument in functions[name].args.args] != PARAMETERS:
        raise UserError(f"{file}: {name} must have the parameters {', '.join(PARAMETERS)}")


def load_function(file: Path, name: str) -> Callable:
    """The function of a file. Raises UserError if the file cannot be run."""
    check_function(file, name)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(fault_in(error, file)) from None
    return getattr(module, name)


def fault_in(error: Exception, file: Path) -> str:
    """An exception with its last line in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    where = f"{file}, line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
