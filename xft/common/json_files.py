"""Reads JSON that others may have written: a file with an object, or with a value in each line."""

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from xft.common.errors import UserError
from xft.common.file_access import read_bytes, read_lines

MAX_LINE = 64 * 2**20  # bytes
MAX_JSON = 100_000_000


def unique(pairs: list[tuple[str, object]]) -> dict:
    """An object of its pairs. Raises ValueError if it holds a key twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated[:80]!r} appears twice")
    return value


def parse_json(text: str, hook: Callable = unique) -> object:
    """The value of a JSON text. Raises ValueError with the reason if the text is not valid.

    hook: makes an object of its pairs.
    """
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_lines(path: Path, growing: bool = False) -> Iterator[tuple[int, object]]:
    """The number and the value of each line that is not blank; for a bad line, a ValueError.

    A BOM in front is left out. growing: the file may still be written, and a last line without an
    end is left out. Raises UserError if the file is missing, is no regular file, holds too much, or
    is not UTF-8.
    """
    for number, line in enumerate(read_lines(path, MAX_LINE), 1):
        if line is None:
            yield number, ValueError(f"longer than {MAX_LINE / 2**20:,.0f} MiB")
            continue
        if growing and not line.endswith(b"\n"):
            return
        if text := text_of_line(path, number, line).rstrip():
            try:
                value = parse_json(text)
            except json.JSONDecodeError as error:
                value = ValueError(f"{error.msg}, column {error.colno}")
            except ValueError as error:
                value = error
            yield number, value


def read_rows(file: Path) -> Iterator[tuple[int, object]]:
    """The number and the values of each row; for a bad line of JSON, a ValueError."""
    if file.suffix != ".parquet":
        return read_json_lines(file)

    import pyarrow
    from pyarrow import parquet

    try:
        return enumerate(parquet.read_table(file).to_pylist(), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}") from None


def text_of_line(path: Path, number: int, line: bytes) -> str:
    """The text of a line, without a BOM in front of the first. Raises UserError if not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}, in line {number}") from None


def read_json_objects(path: Path, what: str = "JSON objects", growing: bool = False) -> list[dict]:
    """The objects of a file, one in each line. growing: as for `read_json_lines`.

    what: the objects are, for messages.

    Raises UserError also if a line is no JSON object.
    """
    objects = []
    for number, value in read_json_lines(path, growing):
        if not isinstance(value, dict):
            reason = value if isinstance(value, ValueError) else "not a JSON object"
            raise UserError(f"{path} is not a file of {what}: line {number}: {reason}")
        objects.append(value)
    return objects


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises UserError where it is missing or no regular file, has more than MAX_JSON, is no object,
    is not UTF-8, begins with a byte order mark, or names a key twice.
    """
    return json_object(read_bytes(path, MAX_JSON), path)


def json_object(content: bytes, place: Path | str) -> dict:
    """The JSON object that a place holds. Raises UserError as `read_json` does."""
    if content.startswith(BOM_UTF8):  # transformers does not read such a file either
        raise UserError(
            f"{place} begins with a byte order mark (BOM). Save it as UTF-8 without BOM"
        )
    try:
        value = parse_json(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{place} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{place} does not hold a JSON object")
    return value


def read_if_there(path: Path) -> dict:
    """As `read_json`; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}
