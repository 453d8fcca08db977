"""Parses JSON files strictly. Error messages name the file."""

import json
from pathlib import Path

from workflow_scripts.common.errors import UserError

MAX_BYTES = 100_000_000


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises UserError where it is missing, is no object, is not UTF-8, or names a key twice.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, too many for a JSON file")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise UserError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict:
    value = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        value[key] = item
    return value
