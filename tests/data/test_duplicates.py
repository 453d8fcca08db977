"""Duplicates: against all pairs, compared one by one."""

import random

import pytest

from xft.data.duplicates import find_exact, find_near
from xft.data.instructions import Row

WORDS = [f"word{i}" for i in range(300)]


def rows_of(*texts: tuple[str, str]) -> list[Row]:
    return [Row(*text, number) for number, text in enumerate(texts, 1)]


def test_exact_duplicates_differ_in_whitespace_alone():
    rows = rows_of(
        ("Add a b.", "def f():\n    return 1"),
        ("Add  a\tb.\n", "def f():\n\n  return 1 "),
        ("add a b.", "def f():\n    return 1"),
        ("Add a b.", "def f():\n    return 2"),
        ("Add a b. def f():", "return 1"),
        ("Add a b.", "def f(): return 1"),
    )
    assert find_exact(rows) == {2: 1, 6: 1}


def ngrams(row: Row) -> set[tuple]:
    words = row.text.split()
    size = min(5, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def slow(rows: list[Row]) -> dict[int, int]:
    """Every row against every earlier one that stays."""
    kept, found = [], {}
    for row in rows:
        own = ngrams(row)
        for other in kept:
            theirs = ngrams(other)
            if 5 * len(own & theirs) >= 4 * len(own | theirs):
                found[row.number] = other.number
                break
        else:
            kept.append(row)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_near_duplicates_are_those_of_all_pairs(seed):
    """Texts of plain words, for which splitting at blanks is the same as the product's words."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 80))) for _ in range(60)]
    for text in rng.choices(texts, k=140):  # copies with up to three changed or lost words
        words = text.split()
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice([*WORDS[:3], ""])
        texts.append(" ".join(words).strip() or "word0")
    rng.shuffle(texts)
    rows = rows_of(*((text, "word1") for text in texts))
    found = find_near(rows)
    assert found == slow(rows)
    assert 30 < len(found) < 180


@pytest.mark.parametrize(("count", "found"), [(12, {2: 1}), (11, {})])
def test_the_threshold_is_four_fifths(count, found):
    """Of 9 n-grams each, 8 are the same: 8 of 10. Of 8 each, 7: 7 of 9."""
    text = " ".join(WORDS[:count])
    assert find_near(rows_of((text, "end"), (text, "other"))) == found


def test_marks_are_words_and_whitespace_is_none():
    body = " ".join(WORDS[:40])
    rows = rows_of(
        (body, "a + b"), (body.replace(" ", "\n"), "a + b"), ("a - b", "x"), ("a + b", "x")
    )
    assert find_near(rows) == {2: 1}
