"""The faults of values that are read from files of rows."""

import re

SURROGATE = re.compile("[\ud800-\udfff]")
HALF_PAIR = "holds half of a surrogate pair, which is not a character"


def fault_of_object(value: object) -> str | None:
    """The fault of a value of a file of rows, if it is not an object."""
    if isinstance(value, ValueError):
        return f"not valid JSON ({value})"
    return None if isinstance(value, dict) else "not a JSON object"


def fault_of_text(value: object) -> str | None:
    """The fault of a value, in words that follow its name, if it is not a text with content."""
    if not isinstance(value, str):
        return "is not a string"
    if not value.strip():
        return "is empty"
    if SURROGATE.search(value):
        return HALF_PAIR
    return None
