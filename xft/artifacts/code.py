"""Hashes of a step's code and of the user's files.

The rules have them as params. File times are not enough: a copy or a clone changes them.
"""

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS, LIBRARY = "workflow_scripts", "xft"
HASHED_WHOLE = 2**28
SAMPLES, SAMPLE_BYTES = 256, 2**16
DIGITS = 16  # of a file's hash: enough to tell versions apart
FILE_NAME = re.compile(r"\w+(\.\w+)+")
# Modules that decide what is printed and asked. Recipes hold what is asked for, so that no result
# depends on these modules' code.
PRESENTATION = {
    "xft/artifacts/code.py",
    "xft/artifacts/recipe.py",
    "xft/cli/flags.py",
    "xft/cli/running.py",
    "xft/cli/training.py",
    "xft/common/errors.py",
    "xft/common/optional.py",
    "xft/common/progress.py",
    "xft/config/step_keys.py",
    "xft/config/section.py",
    "xft/config/sections.py",
    "xft/config/validation.py",
    "xft/hub/repository.py",
    "xft/modeling/start_distance.py",
    "xft/reporting/cards/__init__.py",
    "xft/training/callbacks.py",
    "xft/training/launch.py",
    "xft/training/throughput.py",
    "xft/training/trackers.py",
}


def content_hash(path: Path) -> str:
    """SHA-256 of a file; of a file larger than 256 MiB, of its size and 256 samples of 64 KiB.

    The samples are spread evenly from the first bytes to the last. They detect other weights, but
    not always a single changed byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def code_hash(step: str) -> str:
    """SHA-256 over `code_hashes`."""
    lines = [f"{module} {digest}\n" for module, digest in code_hashes(step).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def code_hashes(step: str) -> dict[str, str]:
    """The hash of each file of this project that decides about the result of a step, by path.

    These are `workflow_scripts.<step>`, the modules that it imports (directly or not, also within
    functions), and files in a module's folder that the module names, such as a script or a
    template. Modules of PRESENTATION are left out.
    """
    return {path.relative_to(ROOT).as_posix(): _file_hash(path) for path in files(step)}


def files(step: str) -> list[Path]:
    """Those files, sorted."""
    found: set[Path] = set()
    waiting = [ROOT / STEPS / f"{step}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found and path.relative_to(ROOT).as_posix() not in PRESENTATION:
            found.add(path)
            waiting += _imports(path) if _is_module(path) else []
    return sorted(found)


def _is_module(path: Path) -> bool:
    return path.suffix == ".py"


@cache
def _file_hash(path: Path) -> str:
    """A hash of a module's syntax without comments, docstrings and messages; else of all bytes."""
    if not _is_module(path):
        return content_hash(path)[:DIGITS]
    written = json.dumps(_plain(_tree(path)), separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()[:DIGITS]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _plain(node: object) -> object:
    """A node of a syntax tree as JSON, without empty fields, as Python versions differ in them."""
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_silent(item)]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | None) else {type(node).__name__: repr(node)}
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        node = ast.Raise(node.exc.func)
    fields = [[name, _plain(value)] for name, value in ast.iter_fields(node)]
    return [type(node).__name__, *(field for field in fields if field[1] not in (None, []))]


def _is_silent(node: object) -> bool:
    """Whether a statement is a docstring or prints a message."""
    if not isinstance(node, ast.Expr):
        return False
    match node.value:
        case ast.Constant(value=str()):
            return True
        case ast.Call(func=ast.Name(id="print" | "say")):
            return True
    return False


@cache
def _imports(path: Path) -> list[Path]:
    """The files of this project that a file imports or names, and the packages that hold them."""
    files = []
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Constant(value=str(value)) if FILE_NAME.fullmatch(value):
                files += [file for file in [path.with_name(value)] if file.is_file()]
                continue
            case _:
                continue
        files += [file for name in names for file in _files(name)]
    return files


def _files(name: str) -> list[Path]:
    """The file of a dotted module of this project, and the files of the packages that hold it."""
    parts = name.split(".")
    if parts[0] not in (STEPS, LIBRARY):
        return []
    files = []
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        candidates = (place / "__init__.py", place.with_suffix(".py"))
        files += [file for file in candidates if file.is_file()]
    return files
