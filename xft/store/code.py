"""The versions of the steps' code.

versions.json holds for each step a number, and the hash of each module. Where a module has another
hash, somebody edited it: the recipes of the steps that use it then hold the hash of their code in
place of the number. tools/write_versions.py accepts the edited code under the same number.
"""

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

from xft.store.file_hashes import FileHashCache, content_hash

ROOT = Path(__file__).parents[2]
STEPS_FOLDER, LIBRARY = "workflow_scripts", "xft"
VERSIONS = Path(__file__).with_name("versions.json")
DIGITS = 16  # of a hash: enough to tell versions apart
NAME = re.compile(r"\w+(\.\w+)*")  # of a file or a folder


class Code:
    """The code of all steps. file_hashes: a cache, between runs."""

    def __init__(self, file_hashes: FileHashCache | None = None):
        self.file_hashes = file_hashes or FileHashCache()
        self.stated = json.loads(VERSIONS.read_text())
        self._known: dict[str, list] = {}

    @cache  # noqa: B019 (an object for each process)
    def version_of(self, step: str) -> int | str:
        """The number of a step's version, or a hash of its code if somebody edited it."""
        if not self.edited(step):
            return self.stated["steps"][step]["version"]
        lines = [f"{name} {digest}\n" for name, digest in self.hashes(step).items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:DIGITS]

    def edited(self, step: str) -> list[str]:
        """The modules of a step that differ from those of its version, by path."""
        known = self.stated["modules"]
        return [name for name, digest in self.hashes(step).items() if known.get(name) != digest]

    @cache  # noqa: B019
    def hashes(self, step: str) -> dict[str, str]:
        """The hash of each file of this project that decides about the result of a step, by path.

        These are `workflow_scripts.<step>`, the modules that it imports (directly or not, also
        within functions), and files in a module's folder that the module names, such as a script or
        a template, or the files of a folder there. The wording of model cards does not count.
        """
        known: dict[str, str] = {}
        waiting = [f"{STEPS_FOLDER}/{step}.py"]
        while waiting:
            name = waiting.pop()
            if (ROOT / name).is_dir():  # its files are not those of the time of the cache
                visible = (ROOT / name).glob("[!.]*.*")  # an editor's are hidden
                waiting += [_name(file) for file in visible if file.is_file()]
            elif name not in known:
                known[name], used = self._read(name)
                waiting += used
        return dict(sorted(known.items()))

    def _read(self, name: str) -> list:
        """The result of `read_module` for a file, which is read once for all steps."""
        if name not in self._known:
            hashed = self.file_hashes.of(ROOT / name, read_module)
            if not all((ROOT / place).exists() for place in hashed[1]):  # a module is a package now
                hashed = read_module(ROOT / name)
            self._known[name] = hashed
        return self._known[name]


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def read_module(path: Path) -> list:
    """The hash of a file of this project, and the paths of the files and folders that it uses.

    The hash of a module covers its syntax without comments, docstrings and messages.
    """
    if path.suffix != ".py":
        return [content_hash(path)[:DIGITS], []]
    tree = ast.parse(path.read_bytes())
    written = json.dumps(_plain(tree), separators=(",", ":"))
    used = sorted({_name(place) for place in _used(path, tree)})
    return [hashlib.sha256(written.encode()).hexdigest()[:DIGITS], used]


def _plain(node: object) -> object:
    """A part of a syntax tree as JSON: a node is its class, then its fields, each [name, value].

    Docstrings and messages are left out, and empty fields, as Python versions differ in them.
    """
    match node:
        case list():
            return [_plain(item) for item in node if not _is_silent(item)]
        case str() | int() | None:
            return node
        case ast.Raise(exc=ast.Call(func=exception)):
            node = ast.Raise(exception)  # its arguments are the message
        case ast.AST():
            pass
        case _:  # a constant such as 0.5 or b"x"
            return {type(node).__name__: repr(node)}
    fields = [[name, _plain(value)] for name, value in ast.iter_fields(node)]
    return [type(node).__name__, *(field for field in fields if field[1] not in (None, []))]


def _is_silent(node: object) -> bool:
    """Whether a statement is a docstring or prints a message."""
    match node:
        case ast.Expr(ast.Constant(str()) | ast.Call(ast.Name("print" | "say"))):
            return True
    return False


def _used(path: Path, tree: ast.Module) -> list[Path]:
    """The files of this project that a module imports or names, the packages that hold them, and
    the folders of data that it names.
    """
    used = []
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    used += _module_files(alias.name)
            case ast.ImportFrom(level=0):
                for alias in node.names:
                    used += _module_files(f"{node.module}.{alias.name}")
            case ast.Constant(value=str(value)) if NAME.fullmatch(value):
                place = path.with_name(value)
                is_data = place.is_dir() and not (place / "__init__.py").exists()
                if place.is_file() or is_data:
                    used.append(place)
    return used


def _module_files(name: str) -> list[Path]:
    """The file of a dotted module of this project, and the files of the packages that hold it."""
    parts = name.split(".")
    if parts[0] not in (STEPS_FOLDER, LIBRARY):
        return []
    files = []
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        candidates = (place / "__init__.py", place.with_suffix(".py"))
        files += [file for file in candidates if file.is_file()]
    return files
