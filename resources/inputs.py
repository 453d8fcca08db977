"""Inputs for the functions: a few ordinary ones (base) and many edge cases (plus)."""

import random

from families import WORDS

Arguments = list[int | str | list]  # what a function is called with; plain JSON


def base_inputs(argument: str, parameter: int | str, rng: random.Random) -> list[Arguments]:
    """Return three ordinary argument lists for an argument kind of ``families.ARGUMENTS``."""
    match argument, parameter:
        case "int", _:
            return [[rng.randint(1, 99)] for _ in range(3)]
        case "pair", _:
            return [[rng.randint(1, 99), rng.randint(1, 99)] for _ in range(3)]
        case "list", _:
            return [[_numbers(parameter, size, rng)] for size in (3, 4, min(parameter, 20) + 3)]
        case "str", str():
            return [[" ".join(_words(parameter, size, rng))] for size in (1, 2, 3)]
        case "str", int():
            return [[rng.choice(WORDS)], [rng.choice(WORDS)], [" ".join(rng.sample(WORDS, 6))]]
        case "strs", str():
            return [[_words(parameter, size, rng)] for size in (1, 2, 4)]
        case "strs", int():
            return [[[word * 4 for word in rng.sample(WORDS, size)]] for size in (1, 2, 4)]
    raise ValueError(f"no inputs for {argument} and {parameter!r}")


def plus_inputs(argument: str, parameter: int | str) -> list[Arguments]:
    """Return edge cases: zero, negative, empty, repeated, and right at the parameter."""
    match argument, parameter:
        case "int", a:
            numbers = [0, 1, -1, a - 1, a, a + 1, -a, 2 * a, 10 * a + 1]
            return [[number] for number in numbers]
        case "pair", a:
            return [[0, 0], [a, 0], [0, a], [a + 1, 1], [-a, a], [-1, -5], [1, a + 2], [1000, 1]]
        case "list", a:
            lists = [[], [a], [a, a, a + 1], [a - 1, a, a + 1], [0, -1, -a], [-3, -2, 2, 3]]
            return [[items] for items in [*lists, [5 * a, 2 * a, 3 * a], list(range(a + 2))]]
        case "str", str() as a:
            texts = ["", a, a + a, a.upper(), f"{a} and {a}", f"x{a}y", a[:-1], "A b  C"]
            return [[text] for text in texts]
        case "str", int() as a:
            return [
                [text] for text in ("", "a", " ", "ab" * a, "x" * (a - 1), "y" * a, "z" * (a + 1))
            ]
        case "strs", str() as a:
            lists = [[], [a], [""], [a, a], ["x", a, a], [a.upper(), f"{a}s"], ["", "", a]]
            return [[strings] for strings in lists]
        case "strs", int() as a:
            lists = [[], [""], ["x" * a], ["y" * (a + 1)], ["ab" * a, "", "c" * (a - 1)], ["a"] * a]
            return [[strings] for strings in lists]
    raise ValueError(f"no inputs for {argument} and {parameter!r}")


def _numbers(parameter: int, size: int, rng: random.Random) -> list[int]:
    """Return ``size`` numbers around the parameter, most often with the parameter itself."""
    numbers = [rng.randint(1, 2 * parameter) for _ in range(size - 1)] + [parameter]
    rng.shuffle(numbers)
    return numbers


def _words(parameter: str, size: int, rng: random.Random) -> list[str]:
    """Return the parameter among ``size`` other words."""
    words = [*rng.sample(WORDS, size), parameter]
    rng.shuffle(words)
    return words
