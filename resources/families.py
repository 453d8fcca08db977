"""Families of small Python functions, the raw material of all the data in this folder.

A family is one idea ("add a to x") with several names, wordings and parameters. In its templates
``{x}`` and ``{y}`` stand for the arguments, ``{a}`` and ``{b}`` for the parameters.
"""

from typing import NamedTuple

ARGUMENTS = {
    "int": [("x",), ("n",), ("value",), ("number",)],
    "pair": [("x", "y"), ("a", "b"), ("left", "right"), ("first", "second")],
    "list": [("items",), ("values",), ("numbers",), ("nums",)],
    "str": [("text",), ("s",), ("word",), ("line",)],
    "strs": [("words",), ("names",), ("texts",), ("lines",)],
}

WORDS = (  # noqa: SIM905
    "ant apple bear bell bird blue boat book cake cat coat corn cow cup dog door duck fish fox "
    "frog goat gold gray green hat hen ice ink jam key kite lamp leaf lion map milk moon mouse "
    "nest nut owl pen pig pink plum rain red ring rose sand sea ship snow star sun tree wind wolf"
).split()

NUMBERS = range(2, 61)
SIZES = range(2, 21)
INDICES = range(len(WORDS))

PARAMETERS = {
    "number": (NUMBERS,),
    "size": (SIZES,),
    "word": (INDICES,),
    "numbers": (NUMBERS, NUMBERS),
    "words": (INDICES, INDICES),
}


class Family(NamedTuple):
    """Templates of one idea; ``argument`` and ``parameter`` are keys of the tables above."""

    argument: str
    parameter: str
    names: tuple[str, ...]
    docs: tuple[str, ...]
    body: str


FAMILIES = (
    # One integer.
    Family(
        "int",
        "number",
        ("add_{a}", "plus_{a}", "increase_by_{a}"),
        ("Add {a} to {x}.", "Return {x} plus {a}.", "Increase {x} by {a}."),
        "return {x} + {a}",
    ),
    Family(
        "int",
        "number",
        ("subtract_{a}", "minus_{a}", "decrease_by_{a}"),
        ("Subtract {a} from {x}.", "Return {x} minus {a}.", "Decrease {x} by {a}."),
        "return {x} - {a}",
    ),
    Family(
        "int",
        "number",
        ("multiply_by_{a}", "times_{a}", "scale_by_{a}"),
        ("Multiply {x} by {a}.", "Return {x} times {a}.", "Scale {x} by {a}."),
        "return {x} * {a}",
    ),
    Family(
        "int",
        "number",
        ("remainder_{a}", "modulo_{a}", "mod_{a}"),
        ("Return the remainder of {x} divided by {a}.", "Compute {x} modulo {a}."),
        "return {x} % {a}",
    ),
    Family(
        "int",
        "number",
        ("divide_by_{a}", "quotient_{a}", "whole_parts_{a}"),
        ("Divide {x} by {a}, rounding down.", "Return how many whole times {a} fits in {x}."),
        "return {x} // {a}",
    ),
    Family(
        "int",
        "number",
        ("distance_to_{a}", "gap_to_{a}", "difference_from_{a}"),
        ("Return the distance between {x} and {a}.", "Compute how far {x} is from {a}."),
        "return abs({x} - {a})",
    ),
    Family(
        "int",
        "number",
        ("at_most_{a}", "limit_to_{a}", "cap_at_{a}"),
        ("Limit {x} to at most {a}.", "Return the smaller of {x} and {a}."),
        "return min({x}, {a})",
    ),
    Family(
        "int",
        "number",
        ("at_least_{a}", "raise_to_{a}", "floor_at_{a}"),
        ("Raise {x} to at least {a}.", "Return the larger of {x} and {a}."),
        "return max({x}, {a})",
    ),
    Family(
        "int",
        "number",
        ("divisible_by_{a}", "is_multiple_of_{a}", "fits_{a}"),
        ("Check whether {x} is divisible by {a}.", "Tell if {x} is a multiple of {a}."),
        "return {x} % {a} == 0",
    ),
    Family(
        "int",
        "number",
        ("exceeds_{a}", "is_above_{a}", "is_over_{a}"),
        ("Check whether {x} is greater than {a}.", "Tell if {x} is above {a}."),
        "return {x} > {a}",
    ),
    Family(
        "int",
        "number",
        ("reaches_{a}", "is_from_{a}", "is_{a}_or_more"),
        ("Check whether {x} is at least {a}.", "Tell if {x} is {a} or more."),
        "return {x} >= {a}",
    ),
    Family(
        "int",
        "number",
        ("below_{a}", "is_below_{a}", "is_under_{a}"),
        ("Check whether {x} is less than {a}.", "Tell if {x} is below {a}."),
        "return {x} < {a}",
    ),
    Family(
        "int",
        "number",
        ("excess_over_{a}", "surplus_{a}", "part_above_{a}"),
        ("Return how much {x} is over {a}, at least 0.", "Subtract {a} from {x}, but not below 0."),
        "return max({x} - {a}, 0)",
    ),
    Family(
        "int",
        "number",
        ("square_plus_{a}", "square_and_add_{a}", "squared_plus_{a}"),
        ("Square {x} and add {a}.", "Return the square of {x} plus {a}."),
        "return {x} * {x} + {a}",
    ),
    Family(
        "int",
        "number",
        ("double_minus_{a}", "twice_less_{a}", "double_then_subtract_{a}"),
        ("Double {x} and subtract {a}.", "Return twice {x} minus {a}."),
        "return 2 * {x} - {a}",
    ),
    Family(
        "int",
        "number",
        ("round_down_to_{a}", "floor_multiple_{a}", "multiple_below_{a}"),
        ("Round {x} down to a multiple of {a}.", "Return the last multiple of {a} up to {x}."),
        "return {x} // {a} * {a}",
    ),
    Family(
        "int",
        "number",
        ("next_multiple_{a}", "multiple_after_{a}", "step_up_{a}"),
        ("Return the first multiple of {a} after {x}.", "Step {x} up to the next multiple of {a}."),
        "return ({x} // {a} + 1) * {a}",
    ),
    Family(
        "int",
        "number",
        ("sum_multiples_{a}", "total_multiples_{a}", "add_multiples_{a}"),
        ("Sum the multiples of {a} below {x}.", "Add up all multiples of {a} less than {x}."),
        "return sum(range({a}, {x}, {a}))",
    ),
    Family(
        "int",
        "number",
        ("positive_or_{a}", "default_{a}", "negative_to_{a}"),
        ("Return {x}, or {a} if it is negative.", "Replace {x} by {a} when it is below zero."),
        "if {x} < 0:\n    return {a}\nreturn {x}",
    ),
    Family(
        "int",
        "numbers",
        ("times_{a}_plus_{b}", "scale_{a}_shift_{b}", "multiply_{a}_add_{b}"),
        ("Multiply {x} by {a} and add {b}.", "Return {a} times {x}, plus {b}."),
        "return {x} * {a} + {b}",
    ),
    Family(
        "int",
        "numbers",
        ("plus_{a}_times_{b}", "shift_{a}_scale_{b}", "add_{a}_multiply_{b}"),
        ("Add {a} to {x}, then multiply by {b}.", "Return the sum of {x} and {a}, times {b}."),
        "return ({x} + {a}) * {b}",
    ),
    Family(
        "int",
        "numbers",
        ("over_{a}_gives_{b}", "above_{a}_to_{b}", "reset_{a}_to_{b}"),
        ("Return {b} if {x} is over {a}, else {x}.", "Reset {x} to {b} when it is above {a}."),
        "if {x} > {a}:\n    return {b}\nreturn {x}",
    ),
    # Two integers.
    Family(
        "pair",
        "number",
        ("sum_plus_{a}", "add_both_and_{a}", "total_plus_{a}"),
        ("Add {x}, {y} and {a}.", "Return the sum of {x} and {y}, plus {a}."),
        "return {x} + {y} + {a}",
    ),
    Family(
        "pair",
        "number",
        ("weigh_{a}", "weighted_sum_{a}", "mix_{a}"),
        ("Return {a} times {x} plus {y}.", "Weigh {x} by {a} and add {y}."),
        "return {a} * {x} + {y}",
    ),
    Family(
        "pair",
        "number",
        ("larger_minus_{a}", "max_minus_{a}", "bigger_less_{a}"),
        ("Return the larger of {x} and {y}, minus {a}.", "Take {a} off the larger of {x} and {y}."),
        "return max({x}, {y}) - {a}",
    ),
    Family(
        "pair",
        "number",
        ("within_{a}", "close_by_{a}", "differ_at_most_{a}"),
        ("Check whether {x} and {y} differ by at most {a}.", "Tell if {x} is within {a} of {y}."),
        "return abs({x} - {y}) <= {a}",
    ),
    Family(
        "pair",
        "number",
        ("product_mod_{a}", "multiply_mod_{a}", "times_mod_{a}"),
        ("Return {x} times {y} modulo {a}.", "Compute the product of {x} and {y} modulo {a}."),
        "return {x} * {y} % {a}",
    ),
    # A list of integers.
    Family(
        "list",
        "number",
        ("count_above_{a}", "how_many_above_{a}", "count_greater_{a}"),
        ("Count the elements of {x} greater than {a}.", "Return how many of {x} are above {a}."),
        "return sum(1 for item in {x} if item > {a})",
    ),
    Family(
        "list",
        "number",
        ("count_below_{a}", "how_many_below_{a}", "count_less_{a}"),
        ("Count the elements of {x} less than {a}.", "Return how many of {x} are below {a}."),
        "count = 0\nfor item in {x}:\n    if item < {a}:\n        count += 1\nreturn count",
    ),
    Family(
        "list",
        "number",
        ("count_{a}", "occurrences_of_{a}", "how_often_{a}"),
        ("Count how often {a} occurs in {x}.", "Return the number of times {a} is in {x}."),
        "return {x}.count({a})",
    ),
    Family(
        "list",
        "number",
        ("keep_above_{a}", "only_above_{a}", "filter_greater_{a}"),
        ("Keep the elements of {x} greater than {a}.", "List only those of {x} above {a}."),
        "return [item for item in {x} if item > {a}]",
    ),
    Family(
        "list",
        "number",
        ("keep_multiples_{a}", "only_multiples_{a}", "filter_multiples_{a}"),
        ("Keep the multiples of {a} in {x}.", "List only those of {x} divisible by {a}."),
        "return [item for item in {x} if item % {a} == 0]",
    ),
    Family(
        "list",
        "number",
        ("remove_{a}", "without_{a}", "drop_{a}"),
        ("Remove every {a} from {x}.", "Return {x} without the value {a}."),
        "return [item for item in {x} if item != {a}]",
    ),
    Family(
        "list",
        "number",
        ("add_{a}_to_each", "shift_all_by_{a}", "increase_each_by_{a}"),
        ("Add {a} to each element of {x}.", "Increase all of {x} by {a}."),
        "return [item + {a} for item in {x}]",
    ),
    Family(
        "list",
        "number",
        ("multiply_each_by_{a}", "scale_all_by_{a}", "times_{a}_each"),
        ("Multiply each element of {x} by {a}.", "Scale all of {x} by {a}."),
        "return [item * {a} for item in {x}]",
    ),
    Family(
        "list",
        "number",
        ("cap_each_at_{a}", "limit_all_to_{a}", "clip_each_{a}"),
        ("Limit each element of {x} to at most {a}.", "Cap all of {x} at {a}."),
        "return [min(item, {a}) for item in {x}]",
    ),
    Family(
        "list",
        "size",
        ("first_{a}", "take_{a}", "head_{a}"),
        ("Return the first {a} elements of {x}.", "Take {a} elements from the start of {x}."),
        "return {x}[:{a}]",
    ),
    Family(
        "list",
        "size",
        ("skip_{a}", "skip_first_{a}", "after_first_{a}"),
        ("Skip the first {a} elements of {x}.", "Return {x} without its first {a} elements."),
        "return {x}[{a}:]",
    ),
    Family(
        "list",
        "size",
        ("last_{a}", "tail_{a}", "take_last_{a}"),
        ("Return the last {a} elements of {x}.", "Take {a} elements from the end of {x}."),
        "return {x}[-{a}:]",
    ),
    Family(
        "list",
        "size",
        ("every_{a}", "step_{a}", "pick_every_{a}"),
        ("Return every {a}th element of {x}.", "Pick elements of {x} in steps of {a}."),
        "return {x}[::{a}]",
    ),
    Family(
        "list",
        "size",
        ("rotate_{a}", "rotate_left_{a}", "move_{a}_to_end"),
        ("Rotate {x} to the left by {a}.", "Move the first {a} elements of {x} to the end."),
        "return {x}[{a}:] + {x}[:{a}]",
    ),
    Family(
        "list",
        "number",
        ("contains_{a}", "has_{a}", "includes_{a}"),
        ("Check whether {a} is in {x}.", "Tell if {x} contains {a}."),
        "return {a} in {x}",
    ),
    Family(
        "list",
        "number",
        ("any_above_{a}", "some_above_{a}", "any_greater_{a}"),
        ("Check whether any of {x} is greater than {a}.", "Tell if some of {x} is above {a}."),
        "return any(item > {a} for item in {x})",
    ),
    Family(
        "list",
        "number",
        ("all_below_{a}", "all_under_{a}", "all_less_{a}"),
        ("Check whether all of {x} are less than {a}.", "Tell if all of {x} are below {a}."),
        "return all(item < {a} for item in {x})",
    ),
    Family(
        "list",
        "number",
        ("all_from_{a}", "all_at_least_{a}", "all_reach_{a}"),
        ("Check whether all of {x} are at least {a}.", "Tell if all of {x} are {a} or more."),
        "return all(item >= {a} for item in {x})",
    ),
    Family(
        "list",
        "number",
        ("index_of_{a}", "find_{a}", "position_of_{a}"),
        ("Return the index of {a} in {x}, or -1.", "Find {a} in {x}, or return -1."),
        "if {a} in {x}:\n    return {x}.index({a})\nreturn -1",
    ),
    Family(
        "list",
        "number",
        ("sum_times_{a}", "scaled_sum_{a}", "total_times_{a}"),
        ("Return the sum of {x} times {a}.", "Multiply the sum of {x} by {a}."),
        "return sum({x}) * {a}",
    ),
    Family(
        "list",
        "number",
        ("sum_above_{a}", "total_above_{a}", "add_up_above_{a}"),
        ("Sum the elements of {x} greater than {a}.", "Add up those of {x} above {a}."),
        "return sum(item for item in {x} if item > {a})",
    ),
    Family(
        "list",
        "number",
        ("even_sum_times_{a}", "sum_even_times_{a}", "even_total_times_{a}"),
        ("Return the sum of the even {x} times {a}.", "Multiply the even sum of {x} by {a}."),
        "return {a} * sum(item for item in {x} if item % 2 == 0)",
    ),
    Family(
        "list",
        "number",
        ("odd_sum_plus_{a}", "sum_odd_plus_{a}", "odd_total_plus_{a}"),
        ("Return the sum of the odd {x} plus {a}.", "Add {a} to the odd sum of {x}."),
        "total = {a}\nfor item in {x}:\n    if item % 2 == 1:\n        total += item\nreturn total",
    ),
    Family(
        "list",
        "number",
        ("largest_or_{a}", "max_or_{a}", "maximum_or_{a}"),
        ("Return the largest of {x}, or {a} if empty.", "Find the maximum of {x}, by default {a}."),
        "return max({x}, default={a})",
    ),
    Family(
        "list",
        "number",
        ("append_{a}", "put_{a}_last", "end_with_{a}"),
        ("Return {x} with {a} at the end.", "Append {a} to a copy of {x}."),
        "return {x} + [{a}]",
    ),
    Family(
        "list",
        "number",
        ("sort_below_{a}", "sorted_below_{a}", "order_below_{a}"),
        ("Sort the elements of {x} less than {a}.", "Return those of {x} below {a} in order."),
        "return sorted(item for item in {x} if item < {a})",
    ),
    Family(
        "list",
        "numbers",
        ("replace_{a}_by_{b}", "swap_{a}_for_{b}", "change_{a}_to_{b}"),
        ("Replace every {a} in {x} by {b}.", "Change each {a} of {x} to {b}."),
        "return [{b} if item == {a} else item for item in {x}]",
    ),
    # A string.
    Family(
        "str",
        "size",
        ("repeat_{a}", "repeat_text_{a}", "copies_{a}"),
        ("Repeat {x} {a} times.", "Return {a} copies of {x} in a row."),
        "return {x} * {a}",
    ),
    Family(
        "str",
        "size",
        ("first_{a}_letters", "prefix_{a}", "start_{a}"),
        ("Return the first {a} characters of {x}.", "Cut {x} after {a} characters."),
        "return {x}[:{a}]",
    ),
    Family(
        "str",
        "size",
        ("longer_than_{a}", "is_longer_than_{a}", "length_above_{a}"),
        ("Check whether {x} has more than {a} characters.", "Tell if {x} is longer than {a}."),
        "return len({x}) > {a}",
    ),
    Family(
        "str",
        "word",
        ("append_{a}", "add_{a}", "end_with_{a}"),
        ('Append "{a}" to {x}.', 'Return {x} followed by "{a}".'),
        'return {x} + "{a}"',
    ),
    Family(
        "str",
        "word",
        ("reverse_and_add_{a}", "backwards_{a}", "reversed_plus_{a}"),
        ('Reverse {x} and append "{a}".', 'Return {x} backwards followed by "{a}".'),
        'return {x}[::-1] + "{a}"',
    ),
    Family(
        "str",
        "word",
        ("surround_{a}", "wrap_{a}", "between_{a}"),
        ('Put "{a}" before and after {x}.', 'Surround {x} with "{a}" on both sides.'),
        'return "{a}" + {x} + "{a}"',
    ),
    Family(
        "str",
        "word",
        ("upper_after_{a}", "shout_{a}", "capitals_{a}"),
        ('Return "{a}" followed by {x} in upper case.', 'Write {x} in capitals after "{a}".'),
        'return "{a}" + {x}.upper()',
    ),
    Family(
        "str",
        "word",
        ("count_{a}", "how_many_{a}", "times_{a}_occurs"),
        ('Count how often "{a}" occurs in {x}.', 'Return the number of "{a}" in {x}.'),
        'return {x}.count("{a}")',
    ),
    Family(
        "str",
        "word",
        ("delete_{a}", "erase_{a}", "strip_out_{a}"),
        ('Delete every "{a}" from {x}.', 'Return {x} with all "{a}" taken out.'),
        'return {x}.replace("{a}", "")',
    ),
    Family(
        "str",
        "word",
        ("starts_with_{a}", "begins_with_{a}", "has_prefix_{a}"),
        ('Check whether {x} starts with "{a}".', 'Tell if {x} begins with "{a}".'),
        'return {x}.startswith("{a}")',
    ),
    Family(
        "str",
        "word",
        ("text_or_{a}", "default_{a}", "fallback_{a}"),
        ('Return {x}, or "{a}" if it is empty.', 'Use "{a}" when {x} is empty.'),
        'return {x} or "{a}"',
    ),
    Family(
        "str",
        "words",
        ("replace_{a}_by_{b}", "swap_{a}_for_{b}", "change_{a}_to_{b}"),
        ('Replace every "{a}" in {x} by "{b}".', 'Change each "{a}" of {x} to "{b}".'),
        'return {x}.replace("{a}", "{b}")',
    ),
    # A list of strings.
    Family(
        "strs",
        "word",
        ("join_with_{a}", "glue_{a}", "link_with_{a}"),
        ('Join {x} with "{a}" in between.', 'Link the strings of {x} with "{a}".'),
        'return "{a}".join({x})',
    ),
    Family(
        "strs",
        "word",
        ("suffix_each_{a}", "add_{a}_to_each", "all_end_with_{a}"),
        ('Append "{a}" to each string in {x}.', 'Add "{a}" at the end of all of {x}.'),
        'return [item + "{a}" for item in {x}]',
    ),
    Family(
        "strs",
        "word",
        ("position_of_{a}", "find_{a}", "index_of_{a}"),
        ('Return the index of "{a}" in {x}, or -1.', 'Find "{a}" in {x}, or return -1.'),
        'if "{a}" in {x}:\n    return {x}.index("{a}")\nreturn -1',
    ),
    Family(
        "strs",
        "size",
        ("keep_longer_than_{a}", "only_longer_{a}", "long_strings_{a}"),
        ("Keep the strings of {x} longer than {a}.", "List those of {x} with over {a} letters."),
        "return [item for item in {x} if len(item) > {a}]",
    ),
)
