"""Parses JSON files strictly. Error messages name the file."""

import json
from pathlib import Path

from workflow_scripts.common.errors import UserError

MAX_BYTES = 100_000_000


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises UserError if it is missing or not an object."""
    if not path.is_file():
        raise UserError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, too many for a JSON file")
    return parse_json(path.read_bytes(), str(path))


def parse_json(content: bytes, name: str) -> dict:
    """The JSON object in `content`. Error messages call it `name`.

    Raises UserError if it is not an object, is not UTF-8, or has a key twice.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise UserError(f"{name} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{name} does not hold a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    value = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        value[key] = item
    return value
