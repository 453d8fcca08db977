"""Code of the user's that a key names: `a.py:ties` or, with arguments, `a.py:ties(kept=0.2)`.

The arguments are literals of Python, by name. The file runs in the step that needs it, with the
user's rights; before that it is only read.
"""

import ast
import inspect
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xft.common.errors import UserError, did_you_mean
from xft.common.user_program import load_program, parsed, program_files

FORM = r".+\.py:[A-Za-z_]\w*(\(.*\))?"


@dataclass(frozen=True)
class Names:
    """Marks a key that names a function with these parameters, or a class: ("self",).

    offered: parameters that a function may have besides, and then gets.
    """

    parameters: tuple[str, ...]
    offered: tuple[str, ...] = ()


@dataclass(frozen=True)
class UserCode:
    """A function or a class in a file, and arguments for it."""

    file: Path
    name: str
    arguments: dict[str, object]

    @classmethod
    def of(cls, text: str) -> "UserCode":
        """Raises ValueError if the text does not name code."""
        if not re.fullmatch(FORM, text):
            raise ValueError("should name code in a Python file, such as my_file.py:name")
        place, bracket, rest = text.partition("(")
        file, _, name = place.rpartition(":")
        try:
            call = ast.parse("f" + (bracket + rest or "()"), mode="eval").body
            arguments = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        except (SyntaxError, ValueError):
            call = None
        if call is None or call.args or None in arguments:
            raise ValueError(f"({rest}: arguments must be literals by name, such as (share=0.5)")
        return cls(Path(file), name, dict(sorted(arguments.items())))

    @property
    def shown(self) -> str:
        """The text without the folder of the file."""
        words = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.file.name}:{self.name}" + (f"({words})" if words else "")

    def __str__(self) -> str:
        return str(self.file).removesuffix(self.file.name) + self.shown

    def check(self, names: Names) -> list[str]:
        """The offered parameters that the code has. The file is not run.

        Raises UserError if the file defines no such code, if that takes other arguments, or as
        `program_files`.
        """
        body = parsed(self.file).body
        program_files(self.file)
        is_class = names.parameters == ("self",)
        kind, form = ("class", ast.ClassDef) if is_class else ("function", ast.FunctionDef)
        known = {node.name: node for node in body if isinstance(node, form)}
        if self.name not in known:
            near = did_you_mean(self.name, known)
            raise UserError(f"{self.file} defines no {kind} {self.name}{near}")
        called = [known[self.name]]
        if is_class:
            called = [node for node in called[0].body if getattr(node, "name", "") == "__init__"]
        return self._fitting(_signature(called[0].args), names) if called else []

    def _fitting(self, signature: inspect.Signature, names: Names) -> list[str]:
        stated, first = list(signature.parameters), list(names.parameters)
        if stated[: len(first)] != first:
            raise UserError(f"{self.file}: {self.name} must have the parameters {', '.join(first)}")
        offered = [name for name in names.offered if name in stated]
        try:
            signature.bind(*first, **dict.fromkeys(offered), **self.arguments)
        except TypeError as error:
            raise UserError(f"{self.file}: {self.name}: {error}") from None
        return offered

    def load(self, names: Names) -> Callable:
        """The function or the class, with its arguments. Raises UserError if the file fails."""
        self.check(names)
        with errors_of([self]):
            named = getattr(load_program(self.file), self.name)
        return partial(named, **self.arguments) if self.arguments else named


def codes_in(value: object) -> list[UserCode]:
    """The code that the value of a key names: of one text, or of each text of a list."""
    texts = value if isinstance(value, list) else [value]
    return [UserCode.of(text) for text in texts if re.fullmatch(FORM, str(text))]


def called(function: Callable, place: str, *arguments: object) -> object:
    """What a function of the user's returns. Raises UserError if it fails."""
    try:
        return function(*arguments)
    except Exception as error:
        inside = traceback.extract_tb(error.__traceback__)[1:2]  # without this function
        fault = fault_in(error, {frame.filename for frame in inside})
        raise UserError(f"{place}: {fault or repr(error)}") from None


@contextmanager
def errors_of(codes: Iterable[UserCode]) -> Iterator[None]:
    """Raise UserError in place of an exception that passed through code of the user's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        files = {str(file) for code in codes for file in program_files(code.file).values()}
        if fault := fault_in(error, files):
            raise UserError(fault) from None
        raise


def fault_in(error: Exception, files: Collection[str]) -> str:
    """An exception with its last line in one of these files; "" if it did not pass through them."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename in files]
    if not inside:
        return ""
    return f"{inside[-1].filename}, line {inside[-1].lineno}: {type(error).__name__}: {error}"


def _signature(args: ast.arguments) -> inspect.Signature:
    """A signature without its annotations and the values of its defaults."""
    for arg in (node for node in ast.walk(args) if isinstance(node, ast.arg)):
        arg.annotation = None
    args.defaults = [ast.Constant(None) for _ in args.defaults]
    args.kw_defaults = [value and ast.Constant(None) for value in args.kw_defaults]
    return inspect.signature(eval(f"lambda {ast.unparse(args)}: None"))
