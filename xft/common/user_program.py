"""A program of the user's: a Python file that a key names, and those beside it that it imports.

`import helper` means helper.py or helper/__init__.py in the folder of the named file, if there is
one, as in a program that Python runs; else an installed package. Relative imports mean the same
files. The text says which these are: nothing runs before the program is loaded. What it reads, or
imports by other means, is in no digest.
"""

import ast
import builtins
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.util import spec_from_file_location
from itertools import accumulate, count
from pathlib import Path
from types import ModuleType

from xft.common.errors import UserError

MAIN = "__main__"
NUMBERS = count(1)


def parsed(file: Path) -> ast.Module:
    """A file of Python. Raises UserError if there is no such file, or if it is not valid Python."""
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not valid Python: {error}") from None


def program_files(file: Path) -> dict[str, Path]:
    """The files of a program by the names of their modules, the named file first.

    Raises UserError if a file is not valid Python, or imports a module that is in the working
    directory or in a folder without __init__.py: its content would be unknown.
    """
    folder, files, new = file.parent, {}, {MAIN: file}
    while new:
        files |= new
        imports = {name: of for module, of in new.items() for name in _imported(module, of)}
        for name, of in imports.items():
            top = name.partition(".")[0]
            if not _file_of(folder, top) and (_file_of(folder, name) or _file_of(Path.cwd(), name)):
                raise UserError(
                    f"{of} imports {top}, which is in the working directory or in a folder without "
                    f"__init__.py. Put {top}.py or {top}/__init__.py into {folder.absolute()}"
                )
        found = {name: _file_of(folder, name) for name in imports if name not in files}
        new = {name: place for name, place in found.items() if place}
    return files


def load_program(file: Path) -> ModuleType:
    """The module of a program's named file, which runs. No other program gets its modules.

    Raises UserError as `program_files`, and what the files raise.
    """
    return import_module(f"{_Program(program_files(file)).package}.{MAIN}")


class _Program(SourceLoader):
    """Imports the modules of a program as parts of a package of its own. Writes no bytecode."""

    def __init__(self, files: dict[str, Path]):
        package = ModuleType(f"xft_program_{next(NUMBERS)}")
        package.__path__, self.package = [], package.__name__
        self.files = {f"{self.package}.{module}": file for module, file in files.items()}
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

    def exec_module(self, module: ModuleType) -> None:
        module.__builtins__ = vars(builtins) | {"__import__": self._import}
        super().exec_module(module)

    def _import(self, name: str, scope=None, local=None, fromlist=(), level: int = 0):
        """Python's `__import__`, with the program's modules first."""
        top = f"{self.package}.{name.partition('.')[0]}"
        if level or top not in self.files:
            return builtins.__import__(name, scope, local, fromlist, level)
        module = builtins.__import__(f"{self.package}.{name}", scope, local, fromlist)
        return module if fromlist else sys.modules[top]


def _imported(module: str, file: Path) -> Iterator[str]:
    """All names that may be modules in the imports of a module, from the program's folder on."""
    package = module.split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            level, start = getattr(node, "level", 0), getattr(node, "module", None)
            above = package[: len(package) + 1 - level] if level else []
            for alias in node.names:
                name = ".".join(filter(None, [*above, start, alias.name]))
                if name.partition(".")[0] != "xft":  # the versions of steps stand for it
                    yield from accumulate(name.split("."), "{}.{}".format)


def _file_of(folder: Path, module: str) -> Path | None:
    place = folder.joinpath(*module.split("."))
    return next(filter(Path.is_file, (place / "__init__.py", Path(f"{place}.py"))), None)
