"""Helpers for messages."""

import pytest

from xft.common.errors import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, ("row",), "0 rows"),
        (1, ("held-out row",), "1 held-out row"),
        (1, ("process", "es"), "1 process"),
        (1200, ("process", "es"), "1,200 processes"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, text):
    assert counted(number, *noun) == text
