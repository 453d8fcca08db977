"""What a step depends on besides its parameters: its code, and the content of the user's files.

Both are told by hashes, which go into the rules' params: times say nothing after a copy or a clone.
"""

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent
HASHED_WHOLE = 2**28
SAMPLES, SAMPLE_BYTES = 256, 2**16


def content_hash(path: Path) -> str:
    """SHA-256 of a file; of one larger than 256 MiB, of its size and 256 samples of 64 KiB.

    The samples lie evenly from the first bytes to the last. They tell other weights, and not a
    single changed byte.
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
    """SHA-256 over the modules of this package that `workflow_scripts.<step>` imports, itself too.

    Imports within functions count, those of imported modules, and scripts that a module names
    beside it.
    """
    digest = hashlib.sha256()
    for path in modules(step):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def modules(step: str) -> list[Path]:
    """The files of those modules, sorted."""
    found: set[Path] = set()
    waiting = [PACKAGE / f"{step}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path)
    return sorted(found)


@cache
def _imports(path: Path) -> list[Path]:
    """The files of this package that a file imports or names, with the packages around them."""
    files = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Constant(value=str(value)) if re.fullmatch(r"\w+\.py", value):
                files += [file for file in [path.with_name(value)] if file.is_file()]
                continue
            case _:
                continue
        files += [file for name in names for file in _files(name)]
    return files


def _files(name: str) -> list[Path]:
    """The file of a dotted module of this package, and those of the packages around it."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    files = []
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        candidates = (place / "__init__.py", place.with_suffix(".py"))
        files += [file for file in candidates if file.is_file()]
    return files
