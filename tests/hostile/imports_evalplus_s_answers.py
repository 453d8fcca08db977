# expect: error
"""Imports the answers of two problems from EvalPlus."""

from evalplus.eval._special_oracle import _digit_distance_nums
