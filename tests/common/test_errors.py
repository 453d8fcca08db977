"""Helpers for messages."""

from xft.common.errors import counted


def test_a_noun_agrees_with_its_number():
    assert counted(0, "row") == "0 rows"
    assert counted(1, "held-out row") == "1 held-out row"
    assert counted(1, "process", "es") == "1 process"
    assert counted(1200, "process", "es") == "1,200 processes"
