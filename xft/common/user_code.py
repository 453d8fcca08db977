"""Code of the user's that a key names: `a.py:ties` or, with arguments, `a.py:ties(kept=0.2)`.

The arguments are literals of Python, by name, but no sets: their order differs between processes,
and the text of the arguments is part of a recipe. The file runs in the step that needs it, with the
user's rights; before that it is only read.

The file and those beside it that it imports are a program. `import helper` means helper.py or
helper/__init__.py in the folder of the named file, if there is one, as in a program that Python
runs; else an installed package. Relative imports mean the same files. The text says which these
are: nothing runs before the program is loaded. What it reads, or imports by other means, is in no
digest.
"""

import ast
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.util import spec_from_file_location
from inspect import Parameter
from itertools import count
from pathlib import Path
from types import ModuleType

from xft.common.errors import UserError, did_you_mean

MAIN = "__main__"
NUMBERS = count(1)
MOST_SHOWN = 100  # characters of arguments in a message
FORM = r".+\.py:[A-Za-z_]\w*(\(.*\))?"


def parsed(file: Path) -> ast.Module:
    """A file of Python. Raises UserError if there is no such file, or if it is not valid Python."""
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        tree = ast.parse(file.read_bytes(), str(file))
        compile(tree, str(file), "exec", dont_inherit=True)  # it refuses more than the parser
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not valid Python: {error}") from None
    return tree


def program_files(file: Path) -> dict[str, Path]:
    """The files of a program by the names of their modules, the named file first.

    Raises UserError if a file is not valid Python, or imports a module that is in the working
    directory or in a folder without __init__.py: its content would be unknown.
    """
    files = {MAIN: file}
    unread = [MAIN]
    while unread:
        module = unread.pop(0)
        for name in _imported(module, files[module]):
            _check_import(name, files[module], file.parent)
            place = _file_of(file.parent, name)
            if place and name not in files:
                files[name] = place
                unread.append(name)
    return files


def _imported(module: str, file: Path) -> list[str]:
    """All names that may be modules in the imports of a module, from the program's folder on.

    `from a.b import c` gives a, a.b and a.b.c. The versions of steps stand for modules of xft.
    """
    names = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            starts = []
        elif isinstance(node, ast.ImportFrom):
            starts = _start_of(node, module, file)
        else:
            continue
        for alias in node.names:
            parts = [*starts, *alias.name.split(".")]
            if parts[0] != "xft":
                names += [".".join(parts[:number]) for number in range(1, len(parts) + 1)]
    return names


def _start_of(node: ast.ImportFrom, module: str, file: Path) -> list[str]:
    """The module that a statement `from ... import` names, as its parts.

    module, file: those that hold the statement.
    """
    start = node.module.split(".") if node.module else []
    if not node.level:
        return start
    package = module.split(".")
    if file.name != "__init__.py":
        package.pop()
    above = package[: len(package) + 1 - node.level]
    return above + start


def _check_import(name: str, file: Path, folder: Path) -> None:
    """Raise UserError if the content of an imported module would be unknown.

    file: imports it. folder: of the program.
    """
    top = name.partition(".")[0]
    if _file_of(folder, top):
        return
    if _file_of(folder, name) or _file_of(Path.cwd(), name):
        raise UserError(
            f"{file} imports {top}, which is in the working directory or in a folder without "
            f"__init__.py. Put {top}.py or {top}/__init__.py into {folder.absolute()}"
        )


def _file_of(folder: Path, module: str) -> Path | None:
    """The file of a module in a folder. None if the folder has no such module."""
    place = folder.joinpath(*module.split("."))
    for file in (place / "__init__.py", Path(f"{place}.py")):
        if file.is_file():
            return file
    return None


def load_program(file: Path) -> ModuleType:
    """The module of a program's named file, which runs. No other program gets its modules.

    Raises UserError as `program_files`, and what the files raise.
    """
    program = _Program(program_files(file))
    return import_module(f"{program.package}.{MAIN}")


class _Program(SourceLoader):
    """Imports the modules of a program as parts of a package of its own. Writes no bytecode.

    The import statements of the modules are changed to name this package: `import helper` becomes
    `import xft_program_1.helper as helper`.
    """

    def __init__(self, files: dict[str, Path]):
        """files: from `program_files`."""
        self.package = f"xft_program_{next(NUMBERS)}"
        self.modules = set(files)
        self.files = {f"{self.package}.{module}": file for module, file in files.items()}
        package = ModuleType(self.package)
        package.__path__ = []
        sys.modules[self.package] = package
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path=None, target=None):
        if not fullname.startswith(f"{self.package}."):
            return None
        if fullname not in self.files:
            raise ModuleNotFoundError(f"{fullname}: no import statement finds it", name=fullname)
        return spec_from_file_location(fullname, self.files[fullname], loader=self)

    def get_filename(self, fullname: str) -> str:
        return str(self.files[fullname])

    def get_data(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def source_to_code(self, data, path, **options):
        """The code of a module, whose import statements name the program's package."""
        tree = ast.parse(data, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                node.names = [new for alias in node.names for new in self._import_of(alias)]
            elif isinstance(node, ast.ImportFrom) and not node.level and self._has(node.module):
                node.module = f"{self.package}.{node.module}"
        return super().source_to_code(ast.fix_missing_locations(tree), path, **options)

    def _import_of(self, alias: ast.alias) -> list[ast.alias]:
        """A name of an import statement, from the program's package on.

        `import a.b` runs a.b, and makes the name a known: it becomes two imports, of a.b and of a.
        """
        if not self._has(alias.name):
            return [alias]
        whole = f"{self.package}.{alias.name}"
        if alias.asname:
            return [ast.alias(whole, alias.asname)]
        top = alias.name.partition(".")[0]
        return [ast.alias(whole, top), ast.alias(f"{self.package}.{top}", top)]

    def _has(self, module: str) -> bool:
        """Whether an absolute import takes a module from the program."""
        return module.partition(".")[0] in self.modules


@dataclass(frozen=True)
class Names:
    """Marks a key that names a function with these parameters, or a class: ("self",).

    offered: parameters that a function may have besides, and then gets.
    """

    parameters: tuple[str, ...]
    offered: tuple[str, ...] = ()

    @property
    def of_class(self) -> bool:
        """Whether the key names a class."""
        return self.parameters == ("self",)


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
        arguments = _literals(bracket + rest) if bracket else {}
        return cls(Path(file), name, dict(sorted(arguments.items())))

    @property
    def label(self) -> str:
        """The text without the folder of the file."""
        place = f"{self.file.name}:{self.name}"
        if not self.arguments:
            return place
        words = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{place}({words})"

    def __str__(self) -> str:
        folder = str(self.file).removesuffix(self.file.name)
        return folder + self.label

    def check(self, names: Names) -> list[str]:
        """The offered parameters that the code has. The file is not run.

        Raises UserError if the file defines no such code, if that takes other arguments, or as
        `program_files`.
        """
        program_files(self.file)
        if not names.of_class:
            function = self._definition("function", ast.FunctionDef)
            return self._check_arguments(_signature(function.args), names)
        body = self._definition("class", ast.ClassDef).body
        constructor = _definitions(body, ast.FunctionDef).get("__init__")
        if constructor is None:
            return []
        return self._check_arguments(_signature(constructor.args), names)

    def _definition(self, kind: str, form: type[ast.AST]) -> ast.AST:
        """The statement of the file that defines the code. Raises UserError if none does.

        form: of the statement. kind: its name in the message.
        """
        known = _definitions(parsed(self.file).body, form)
        if self.name not in known:
            near = did_you_mean(self.name, known)
            raise UserError(f"{self.file} defines no {kind} {self.name}{near}")
        return known[self.name]

    def _check_arguments(self, signature: inspect.Signature, names: Names) -> list[str]:
        """The offered parameters in a signature. Raises UserError if the arguments do not fit."""
        stated = list(signature.parameters)
        first = list(names.parameters)
        rest = stated[len(first) :]
        if stated[: len(first)] != first:
            raise UserError(f"{self.file}: {self.name} must have the parameters {', '.join(first)}")
        offered = [name for name in names.offered if name in stated]
        offered_values = dict.fromkeys(offered)
        try:
            signature.bind(*first, **offered_values, **self.arguments)
        except TypeError as error:
            taken = ", ".join(name for name in rest if name not in offered)
            raise UserError(f"{self.file}: {self.name}: {error}. It takes: {taken}") from None
        return offered

    def load(self, names: Names) -> Callable:
        """The function or the class, with its arguments. Raises UserError if the file fails."""
        self.check(names)
        with errors_of([self]):
            code = getattr(load_program(self.file), self.name)
        if not self.arguments:
            return code
        return partial(code, **self.arguments)


def _definitions(body: Iterable[ast.stmt], form: type[ast.AST]) -> dict[str, ast.AST]:
    """The statements of one form, functions or classes, by the names that they define."""
    return {node.name: node for node in body if isinstance(node, form)}


def _signature(arguments: ast.arguments) -> inspect.Signature:
    """A signature without annotations. Each default is replaced by None."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = []
    for number, arg in enumerate(positional):
        by_name = number >= len(arguments.posonlyargs)
        kind = Parameter.POSITIONAL_OR_KEYWORD if by_name else Parameter.POSITIONAL_ONLY
        parameters.append(_parameter(arg, kind, is_required=number < required))
    if arguments.vararg:
        parameters.append(_parameter(arguments.vararg, Parameter.VAR_POSITIONAL))
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(_parameter(arg, Parameter.KEYWORD_ONLY, is_required=default is None))
    if arguments.kwarg:
        parameters.append(_parameter(arguments.kwarg, Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _parameter(arg: ast.arg, kind, is_required: bool = True) -> Parameter:
    return Parameter(arg.arg, kind, default=Parameter.empty if is_required else None)


def _literals(text: str) -> dict[str, object]:
    """The arguments of a call by name, from its brackets on. Raises ValueError.

    Each is a literal, and so is its `repr`, which recipes hold.
    """
    try:
        arguments = _evaluated(text)
        is_literal = ast.literal_eval(repr(arguments)) == arguments
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        is_literal = False
    if not is_literal:
        shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
        raise ValueError(
            f"{shown}: arguments must be literals by name, without sets, such as (share=0.5)"
        )
    return arguments


def _evaluated(text: str) -> dict[str, object]:
    """The values of a call's arguments by name, from its brackets on.

    Raises ValueError or what Python's parser raises if they are no literals by name.
    """
    call = ast.parse(f"f{text}", mode="eval").body
    is_one_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    if not is_one_call or call.args:
        raise ValueError("not one call with arguments by name")
    arguments = {}
    for word in call.keywords:
        if word.arg is None or word.arg in arguments:  # **{...}, or given twice
            raise ValueError("an argument without a name of its own")
        if any(isinstance(node, ast.Set | ast.Call) for node in ast.walk(word.value)):
            raise ValueError("a set")
        arguments[word.arg] = ast.literal_eval(word.value)
    return arguments


def codes_in(value: object) -> list[UserCode]:
    """The code that the value of a key names: of one text, or of each text of a list."""
    texts = value if isinstance(value, list) else [value]
    return [UserCode.of(text) for text in texts if re.fullmatch(FORM, str(text))]


def called(function: Callable, place: str, *arguments: object) -> object:
    """The value that a function of the user's returns. Raises UserError if it fails.

    place: begins the message.
    """
    try:
        return function(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        files = {frame.filename for frame in frames[1:2]}  # the first frame is this function
        fault = fault_in(error, files) or repr(error)
        raise UserError(f"{place}: {fault}") from None


@contextmanager
def errors_of(codes: Iterable[UserCode]) -> Iterator[None]:
    """Raise UserError in place of an exception that passed through code of the user's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        files = set()
        for code in codes:
            files.update(str(file) for file in program_files(code.file).values())
        fault = fault_in(error, files)
        if fault:
            raise UserError(fault) from None
        raise


def fault_in(error: Exception, files: Collection[str]) -> str:
    """An exception with its last line in one of these files; "" if it did not pass through them."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename in files]
    if not inside:
        return ""
    last = inside[-1]
    return f"{last.filename}, line {last.lineno}: {type(error).__name__}: {error}"
