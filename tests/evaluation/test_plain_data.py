"""Values through JSON, and digests that follow Python's ==."""

import json
import math
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

import numpy as np
import pytest
from evalplus.eval._special_oracle import MBPP_OUTPUT_NOT_NONE_TASKS
from hypothesis import given
from hypothesis import strategies as st

from xft.evaluation.judges import Returned, Rules
from xft.evaluation.plain_data import decode, dumps, encode, is_large, value_hash

numbers = [st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False)]
numbers += [st.fractions(), st.decimals(allow_nan=False)]
scalars = st.one_of(st.none(), st.booleans(), st.text(), st.binary(), *numbers)
hashable = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple))


def containers(inner):
    lists, sets = st.lists(inner, max_size=4), st.sets(hashable, max_size=4)
    dictionaries = st.dictionaries(hashable, inner, max_size=4)
    return st.one_of(lists, lists.map(tuple), sets, sets.map(frozenset), dictionaries)


values = st.recursive(scalars, containers, max_leaves=12)


def same(first, second) -> bool:
    """Equal, with equal types all the way down."""
    if type(first) is not type(second) or first != second:
        return False
    if isinstance(first, list | tuple):
        return all(map(same, first, second))
    if isinstance(first, dict):
        return all(same(value, second[key]) for key, value in first.items())
    return True


@given(values)
def test_a_value_comes_back_with_its_types(value):
    assert same(decode(json.loads(dumps(encode(value)))), value)


@given(values, values)
def test_digests_are_equal_where_values_are(first, second):
    assert (value_hash(first) == value_hash(second)) == (first == second)


Point = namedtuple("Point", "x y")
EQUAL = [
    *[((1.0,), (1,)), ([(2.0, None)], [(2, None)]), ([[]], [[]])],
    *[([1, 2.0, True], [1.0, 2, 1]), ([-0.0, complex(-0.0, 2)], [0, 2j]), ([2**60], [2.0**60])],
    *[([Fraction(1, 2), Decimal("0.25")], [0.5, 0.25]), ([Decimal("1E+5000")], [10**5000])],
    *[({1, 2}, frozenset([2.0, True])), (Point(1, 2), (1, 2)), ([1.0] * 2**15, [1] * 2**15)],
    ({1: 2, "a": [1.0]}, OrderedDict([("a", [1]), (1.0, 2)])),
    *[(list(np.arange(3)), [0, 1, 2]), ([np.longdouble(0.1), np.float32(0.5)], [0.1, 0.5])],
    ([np.longdouble("inf"), Decimal("Infinity")], [math.inf] * 2),
]
UNEQUAL = [
    *[([0.5], (0.5,)), ([1.5, 2], (1.5, 2)), ((0.5, 1), (1, 0.5))],
    *[([1], (1,)), ("1", 1), ([], ()), ([[]], [[[]]]), ({}, set()), (["1, 2"], ["1", "2"])],
    *[("{1}", {1}), ("dict(1: 2)", {1: 2}), ("[1]", [1])],  # texts that spell another value
    *[([1] * 2**14, [1] * (2**14 + 1)), ([10**5000], [10**5000 + 1]), ([0.1], [Fraction(1, 10)])],
]


def test_digests_tell_what_is_equal():
    for first, second in EQUAL:
        assert first == second
        assert value_hash(first) == value_hash(second), first
    for first, second in UNEQUAL:
        assert first != second
        assert value_hash(first) != value_hash(second), first


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_subclasses_become_what_they_stand_for():
    for value, plain in (
        *[(Counter("aab"), {"a": 2, "b": 1}), (Point(1, 2), (1, 2)), ({1: 2}.keys(), {1})],
        *[(Liar(7), 7), (StrEnum("Color", "RED").RED, "red")],
    ):
        encoded = encode(value)
        assert encoded.keys() == {"like"}
        assert same(decode(encoded), plain)


BESIDE_NUMPY_S = [
    *[(np.float64(1.5), 1.5), (np.int64(3), 3), (np.bool_(False), False), (np.str_("a"), "a")],
    *[(np.longdouble(0.1), 0.1), (np.longdouble("0.1"), 0.1), (np.longdouble("-inf"), -math.inf)],
    *[(np.clongdouble(1 + 2j), 1 + 2j), (np.float32(0.1), 0.1), (np.float16(0.1), 0.125)],
    *[([np.float32(0.1), 2], [0.1, 2]), (np.array([0.5]), [0.5]), (np.array([0.5]), 0.5)],
    *[(np.array([[0.5]]), [0.5]), (np.array(["a"]), ["a"]), (np.array([0.1], np.float32), 0.1)],
]


def test_numpy_s_own_rules_of_equality_hold():
    for value, other in BESIDE_NUMPY_S:
        back = decode(json.loads(dumps(encode(value))))
        assert bool(back == other) == bool(value == other)


def test_what_is_no_plain_data_equals_nothing():
    for value in (object(), len, type, iter([1])):
        assert decode(encode(value)) not in (value, decode(encode(value)))
    assert set(decode(encode(iter([1, 2])))) == {1, 2}


def test_other_objects_are_refused():
    for text in (
        *['{"a": 1, "b": 2}', '{"eval": "1"}', '{"set": 1}', '{"int": "x"}'],
        *['{"numpy": ["load", 0, 1]}', '{"numpy": ["f", 0, "x"]}', '{"numpy": ["f", 99, 1]}'],
        *['{"numpy": ["O", 0, 1]}', '{"numpy": ["U", 1, ["x", "y"]]}'],
    ):
        with pytest.raises((ValueError, TypeError)):
            decode(json.loads(text))


def test_a_large_value_is_not_nothing():
    large = Returned(value_hash("x" * 10**5))
    for name in MBPP_OUTPUT_NOT_NONE_TASKS:
        judge = Rules("Mbpp/737", name, 0)
        assert not judge.accepts(["x"], large, Returned(None))
        assert judge.accepts(["x"], large, Returned("a match"))


def test_large_is_told_by_the_number_of_items():
    assert is_large([[1] * 60, [2] * 60], 100)
    assert not is_large([[1] * 40, [2] * 40], 100)
    assert is_large("a" * 101, 100)
    assert not is_large(10**1000, 100)
