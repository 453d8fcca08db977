"""Parses JSON files strictly. Error messages name the file."""

from codecs import BOM_UTF8
from pathlib import Path

from xft.common.errors import UserError
from xft.common.files import read_bytes
from xft.common.json_lines import parse_json

MAX_BYTES = 100_000_000


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises UserError where it is missing or no regular file, has more than MAX_BYTES, is no object,
    is not UTF-8, begins with a byte order mark, or names a key twice.
    """
    content = read_bytes(path, MAX_BYTES)
    if content.startswith(BOM_UTF8):  # transformers does not read such a file either
        raise UserError(f"{path} begins with a byte order mark (BOM). Save it as UTF-8 without BOM")
    try:
        value = parse_json(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value


def read_if_there(path: Path) -> dict:
    """As `read_json`; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}
