"""Writes Python values with their types as JSON, and hashes them: equal values have equal hashes.

Reading JSON creates only plain data, never an object of a class that the JSON names. Standard
library only: the runner imports this file in the sandbox.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from itertools import chain

# Values of these types, and lists and tuples of them, are equal exactly if their texts are equal.
SCALARS = {int, str, type(None)}
SEQUENCES = {list, tuple}
PIECE_ITEMS = 2**14
EXACT_DOUBLE = 2**53
CONTAINERS = {"tuple": tuple, "set": set, "frozenset": frozenset}
MAX_DEPTH = 50
MAX_EXPONENT = 400  # of decimals that are written as integers; no float has a larger one
NARROW = ("float16", "float32", "complex64")  # == first rounds the other number to these
MAX_DIMENSIONS = 32
SAFE_INT = 2**64  # larger ones are written in hexadecimal: Python limits decimal digits


class Items(list):
    """The items of an iterator. Like an iterator, it equals no other value."""

    __hash__ = None

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True


class Unknown:
    """A value that is not plain data. It equals no value."""

    def __eq__(self, other):
        return False

    __hash__ = object.__hash__


def encode(value) -> object:
    """A value as objects that `json` can write.

    Other values than plain data become {"other": type name}. An instance of a subclass becomes
    {"like": value of the built-in type}.
    """
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -SAFE_INT < value < SAFE_INT else {"int": hex(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind is dict:
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, container in CONTAINERS.items():
        if kind is container:
            return {name: [encode(item) for item in value]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is Fraction:
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if kind is Decimal:
        return {"decimal": str(value)}
    return _encode_other(value)


def _encode_other(value) -> dict:
    if type(value).__module__ == "numpy" and hasattr(value, "ndim"):
        return _encode_numpy(value)
    for base in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset):
        if isinstance(value, base):
            return {"like": encode(_as_base(base, value))}
    if isinstance(value, type({}.keys()) | type({}.items())):
        return {"like": encode(set(value))}
    if isinstance(value, Iterable):
        return {"items": [encode(item) for item in value]}
    return {"other": type(value).__name__}


def _encode_numpy(value) -> dict:
    """Encode numbers by what they equal. An array of one item equals that item in a list."""
    if value.ndim == 0 and type(value).__name__ in NARROW:
        return {"numpy": [type(value).__name__, encode(value.item())]}
    if value.ndim == 0:
        return {"like": encode(_python_number(value))}
    if value.size == 1:
        return {"array": [value.ndim, encode(value.reshape(-1)[0])]}
    return {"items": [encode(item) for item in value]}


def _python_number(value):
    """The Python number that equals a number of numpy. A long double may be between two floats."""
    if type(value).__name__ == "longdouble":
        finite = -math.inf < value < math.inf
        return Fraction(*value.as_integer_ratio()) if finite else float(value)
    if type(value).__name__ == "clongdouble":
        return complex(value) if complex(value) == value else Unknown()
    return value.item()


def _as_base(base: type, value):
    """The value as the built-in type, converted with that type's own methods."""
    if base is dict:
        return dict(dict.items(value))
    if base in (list, tuple, set, frozenset):
        return base(base.__iter__(value))
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes(memoryview(value))
    if base is complex:
        return complex(value.real, value.imag)
    return base.__float__(value) if base is float else int.__int__(value)


def decode(encoded) -> object:
    """The inverse of `encode`. Raises ValueError for input that `encode` does not write."""
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if len(encoded) != 1:
        raise ValueError("an object that does not have exactly one key")
    ((name, content),) = encoded.items()
    if name in CONTAINERS:
        return CONTAINERS[name](decode(item) for item in content)
    match name:
        case "like":
            return decode(content)
        case "dict":
            return {decode(key): decode(item) for key, item in content}
        case "int":
            return int(content, 16)
        case "complex":
            return complex(*content)
        case "bytes":
            return bytes.fromhex(content)
        case "fraction":
            return Fraction(*(int(part, 16) for part in content))
        case "decimal":
            return Decimal(content)
        case "items":
            return Items(decode(item) for item in content)
        case "other":
            return Unknown()
        case "numpy" | "array":
            return _decode_numpy(name, *content)
    raise ValueError(f"unknown kind {name!r}")


def _decode_numpy(name: str, about, content):
    """Only used outside the sandbox: a program's inputs hold no numpy values."""
    import numpy

    value = decode(content)
    if name == "numpy" and about in NARROW and isinstance(value, int | float | complex):
        return getattr(numpy, about)(value)
    is_item = not isinstance(value, list | tuple)  # which numpy would make an array of its own
    if name == "array" and is_item and isinstance(about, int) and 0 < about <= MAX_DIMENSIONS:
        return numpy.array([value]).reshape((1,) * about)
    raise ValueError(f"not a value of numpy: {about!r}")


def is_large(value, limit: int) -> bool:
    """Whether a text, or nested lists and tuples, have more than `limit` items."""
    if isinstance(value, str | bytes):
        return len(value) > limit
    items, count = [value], 0
    while items := list(chain.from_iterable(item for item in items if type(item) in SEQUENCES)):
        count += len(items)
        if count > limit:
            return True
    return False


@dataclass(frozen=True)
class Digest:
    """The digest of a large value. It equals only the digests of equal values."""

    sha256: str


def digest(value) -> Digest:
    """A SHA-256 that equal values share (except NaN), for example 1, 1.0 and True."""
    try:
        pieces = _pieces(value if _is_plain(value) else _normal(value))
        return Digest(_sha256(pieces))
    except ValueError:  # an integer of too many digits
        return Digest(_sha256(_pieces(_normal(value))))


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value) -> Iterator[bytes]:
    """The bytes of a value that `_normal` returns or would not change. Numbers become doubles."""
    yield type(value).__name__.encode()
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif type(value) not in SEQUENCES:
        yield repr(value).encode()
    else:
        numeric = _are_doubles(value)
        yield b" of doubles" if numeric else b" of values"
        for start in range(0, len(value), PIECE_ITEMS):
            piece = value[start : start + PIECE_ITEMS]
            if numeric:
                yield array("d", map((0.0).__add__, piece)).tobytes()  # -0.0 becomes 0.0
            else:
                yield repr(piece).encode("utf-8", "surrogatepass")


def _are_doubles(values) -> bool:
    """Whether all values are numbers that a double holds exactly."""
    if not values or not set(map(type, values)) <= {int, float}:
        return False
    return min(values) >= -EXACT_DOUBLE and max(values) <= EXACT_DOUBLE


def _is_plain(value) -> bool:
    """Whether `value` is made of `SCALARS` in `SEQUENCES`, or is a list or tuple of numbers.

    It checks one level of nesting at a time. A level with only sequences runs at the speed of C.
    """
    if type(value) in SEQUENCES and _are_doubles(value):
        return True
    filters = []  # of each level
    while len(filters) < MAX_DEPTH:
        types = set(map(type, _level(value, filters)))
        if not types <= SCALARS | SEQUENCES:
            return False
        if not types & SEQUENCES:
            return True
        filters.append(types <= SEQUENCES)
    return False


def _level(value, all_sequences: Iterable[bool]) -> Iterable:
    items: Iterable = [value]
    for every in all_sequences:
        items = chain.from_iterable(items if every else filter(_is_sequence, items))
    return items


def _is_sequence(item) -> bool:
    return type(item) in SEQUENCES


class _Text(str):
    """A text that is its own repr."""

    __slots__ = ()

    def __repr__(self):
        return str(self)


def _normal(value):
    """A value of `SCALARS`, floats and texts in lists and tuples, the same for equal values."""
    if isinstance(value, Fraction | Decimal | float | complex):
        return _normal_number(value)
    if isinstance(value, int):
        return _normal_integer(int(value))
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(_normal(item) for item in value)
    if isinstance(value, set | frozenset):
        return _Text("{" + ", ".join(sorted(repr(_normal(item)) for item in value)) + "}")
    if isinstance(value, Mapping):
        pairs = (f"{_normal(key)!r}: {_normal(item)!r}" for key, item in value.items())
        return _Text("dict(" + ", ".join(sorted(pairs)) + ")")
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return _normal(_python_number(value))
    return value


def _normal_integer(value: int):
    try:
        repr(value)
    except ValueError:  # too many digits
        return _Text(hex(value))
    return value


def _normal_number(value):
    if isinstance(value, complex):
        return _normal_number(value.real) if value.imag == 0 else _Text(repr(value))
    if isinstance(value, float) and not math.isfinite(value):
        return value
    if isinstance(value, Decimal) and not value.is_finite():
        return float(value)
    if isinstance(value, Decimal) and value and abs(value.adjusted()) > MAX_EXPONENT:
        return _Text(repr(_shortest(value)))  # as an integer it might fill the memory
    if value == int(value):
        return _normal_integer(int(value))
    return float(value) if float(value) == value else _Text(repr(value))


def _shortest(value: Decimal) -> Decimal:
    """The same number without zeros at the end of its digits."""
    digits = len(value.as_tuple().digits)
    return value.normalize(Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN))


def dumps(value) -> str:
    """JSON on one line."""
    return json.dumps(value, separators=(",", ":"))
