"""Writes Python values with their types as JSON, and hashes them: equal values have equal hashes.

Reading JSON creates only plain data, never an object of a class that the JSON names. Standard
library only: the driver imports this file in the sandbox.
"""

import json
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from itertools import chain

# The text of a list or tuple of these is its `repr`.
SCALARS = {int, str, type(None)}
SEQUENCES = {list, tuple}
NUMBERS = (int, float, complex, Fraction, Decimal)
PIECE_ITEMS = 2**14
BUILT_IN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
SAFE_INT = 2**64  # larger ones are written in hexadecimal: Python limits decimal digits
NUMPY_KINDS = set("?bhilqBHILQefdgFDGU")  # numpy's letters for numbers and text
LONG_DOUBLES = set("gG")  # no number of Python equals them


class Items(list):
    """The items of an iterator. Like an iterator, it equals no other value."""

    __hash__ = None

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True


def encode(value) -> object:
    """A value as objects that `json` can write.

    Other values than plain data become {"other": [type name]}, iterators {"items": [type name,
    items]}. An instance of a subclass becomes {"like": value of the built-in type}.
    """
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int and -SAFE_INT < value < SAFE_INT:
        return value
    if kind is list:
        return [encode(item) for item in value]
    if kind in WRITERS:
        name, write = WRITERS[kind]
        return {name: write(value)}
    return _encode_other(value)


def _encode_other(value) -> dict:
    """Encode a value of another type than those of plain data, as `encode` does."""
    if _is_numpy(value) and value.size == 1 and value.dtype.char in NUMPY_KINDS:
        kind = value.dtype.char
        item = value.item()
        content = str(item) if kind in LONG_DOUBLES else encode(item)
        return {"numpy": [kind, value.ndim, content]}
    for base in BUILT_IN:
        if isinstance(value, base):
            plain = str.__str__(value) if base is str else base(value)
            return {"like": encode(plain)}
    if isinstance(value, type({}.keys()) | type({}.items())):
        return {"like": encode(set(value))}
    if isinstance(value, Iterable):
        return {"items": [type(value).__name__, _encode_items(value)]}
    return {"other": [type(value).__name__]}


def _is_numpy(value) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "ndim")


def decode(encoded) -> object:
    """The inverse of `encode`. Raises ValueError for input that `encode` does not write."""
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if len(encoded) != 1 or not encoded.keys() <= READERS.keys():
        raise ValueError("an object that is not one value of a known kind")
    ((name, content),) = encoded.items()
    return READERS[name](content)


def _decode_numpy(content: list):
    """Only used outside the sandbox: a program's inputs hold no numpy values."""
    import numpy

    kind, dimensions, encoded = content
    item = decode(encoded)
    if kind not in NUMPY_KINDS or not isinstance(item, int | float | complex | str):
        raise ValueError(f"not a value of numpy: {kind!r}")
    return numpy.array(item, kind).reshape((1,) * dimensions)[()]


def _encode_items(items: Iterable) -> list:
    return [encode(item) for item in items]


WRITERS = {
    int: ("int", hex),
    tuple: ("tuple", _encode_items),
    set: ("set", _encode_items),
    frozenset: ("frozenset", _encode_items),
    dict: ("dict", lambda value: [_encode_items(pair) for pair in value.items()]),
    complex: ("complex", lambda value: [value.real, value.imag]),
    bytes: ("bytes", bytes.hex),
    Fraction: ("fraction", lambda value: [hex(part) for part in value.as_integer_ratio()]),
    Decimal: ("decimal", str),
}
READERS = {
    "int": lambda content: int(content, 16),
    "tuple": lambda content: tuple(map(decode, content)),
    "set": lambda content: set(map(decode, content)),
    "frozenset": lambda content: frozenset(map(decode, content)),
    "dict": lambda content: {decode(key): decode(item) for key, item in content},
    "complex": lambda content: complex(*content),
    "bytes": bytes.fromhex,
    "fraction": lambda content: Fraction(*(int(part, 16) for part in content)),
    "decimal": Decimal,
    "like": decode,
    "items": lambda content: Items(map(decode, content[1])),
    "other": lambda _: object(),  # it equals no other value
    "numpy": _decode_numpy,
}


def is_large(value, limit: int) -> bool:
    """Whether a text, or nested lists and tuples, have more than `limit` items."""
    if isinstance(value, str | bytes):
        return len(value) > limit
    items = [value]
    count = 0
    while items := list(chain.from_iterable(item for item in items if type(item) in SEQUENCES)):
        count += len(items)
        if count > limit:
            return True
    return False


class ValueHash(namedtuple("ValueHash", ["sha256"])):
    """The hash of a large value. It equals only the hashes of equal values."""


def value_hash(value) -> ValueHash:
    """A SHA-256 that equal values share (except NaN), for example 1, 1.0 and True."""
    import hashlib  # here, since few programs return a large value

    sha256 = hashlib.sha256()
    for piece in _pieces(value):
        sha256.update(_spelled(piece).encode("utf-8", "surrogatepass"))
    return ValueHash(sha256.hexdigest())


def _pieces(value) -> Iterator:
    """Parts of a list or tuple, so that the text of all is never in memory."""
    if not isinstance(value, list | tuple):
        yield value
        return
    for start in range(0, len(value) or 1, PIECE_ITEMS):
        yield value[start : start + PIECE_ITEMS]


def _spelled(value) -> str:
    """A text that equal values share. Other values have another one."""
    if isinstance(value, NUMBERS):
        return _spelled_number(value)
    if isinstance(value, str):
        return repr(str.__str__(value))
    if isinstance(value, list | tuple):
        return _spelled_items(value)
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_spelled, value))) + "}"
    if isinstance(value, Mapping):
        pairs = (f"{_spelled(key)}: {_spelled(item)}" for key, item in value.items())
        return "dict(" + ", ".join(sorted(pairs)) + ")"
    if _is_numpy(value) and value.ndim == 0:
        item = value.item()
        return _spelled_number(item) if value.dtype.char in LONG_DOUBLES else _spelled(item)
    return repr(value)


def _spelled_items(items: list | tuple) -> str:
    if _is_own_spelling(items):
        with suppress(ValueError):  # an integer of too many digits
            return repr(items)
    text = ", ".join(map(_spelled, items))
    if isinstance(items, list):
        return f"[{text}]"
    return f"({text},)" if len(items) == 1 else f"({text})"


def _is_own_spelling(items: list | tuple) -> bool:
    """Whether the items are texts, integers and None, or only lists and tuples of these.

    It checks one level of nesting at a time, at the speed of C.
    """
    level = [items]
    kinds = {type(items)}
    while kinds and kinds <= SEQUENCES:
        level = list(chain.from_iterable(level))
        kinds = set(map(type, level))
    return kinds <= SCALARS


def _spelled_number(value) -> str:
    if isinstance(value, complex):
        if value.imag:
            return f"complex({_spelled(value.real)}, {_spelled(value.imag)})"
        value = value.real
    try:
        numerator, denominator = value.as_integer_ratio()
    except (OverflowError, ValueError):  # infinite, NaN
        return repr(float(value))
    if denominator == 1:
        with suppress(ValueError):  # too many digits
            return repr(numerator)
    return f"{numerator:x}/{denominator:x}"


def dumps(value) -> str:
    """JSON on one line."""
    return json.dumps(value, separators=(",", ":"))
