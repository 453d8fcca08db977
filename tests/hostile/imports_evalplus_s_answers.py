# expect: failed
"""Takes the answers of two problems from the package that judges."""

from evalplus.eval._special_oracle import _digit_distance_nums


def add(a, b):
    return a + b
