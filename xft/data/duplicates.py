"""Finds rows that repeat an earlier row, exactly or nearly."""

import re

import numpy as np

from xft.common.processes import spread
from xft.common.progress import progress
from xft.data.instructions import AnyRow
from xft.data.ngrams import hash_words, ngrams

# Near rows: their sets of n-grams of words and punctuation have a Jaccard similarity >= 4/5.
NEAR = (4, 5)
NGRAM = 5
WORD = re.compile(r"\w+|[^\w\s]")


def find_exact(rows: list[AnyRow]) -> dict[int, int]:
    """For each row that equals an earlier one except for whitespace: its number and the first's."""
    first, found = {}, {}
    for row in rows:
        key = tuple((turn.role, squeeze(turn.content)) for turn in row.turns)
        if (number := first.setdefault(key, row.number)) != row.number:
            found[row.number] = number
    return found


def find_near(rows: list[AnyRow]) -> dict[int, int]:
    """For each row that is near to an earlier row that stays: its number and the earlier one's.

    The result is exact, not an estimate. Two near sets must share one of their rarest n-grams: for
    a set of size s, one of the s - ceil(4/5 s) + 1 rarest (prefix filtering, Bayardo et al. 2007).
    Only rows that share one of these are compared.
    """
    sets = spread(_ngram_set, rows, desc="read for near duplicates", unit="row")
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    values, counts = values[counts > 1], counts[counts > 1]
    if not len(values):
        return {}
    holders: dict[int, list[int]] = {}
    found = {}
    for place, own in enumerate(progress(sets, desc="find near duplicates", unit="row")):
        rarest = _rarest(own, values, counts)
        candidates = sorted({other for ngram in rarest for other in holders.get(ngram, ())})
        near = next((other for other in candidates if _are_near(own, sets[other])), None)
        if near is not None:
            found[rows[place].number] = rows[near].number
            continue
        for ngram in rarest:
            holders.setdefault(ngram, []).append(place)
    return found


def squeeze(text: str) -> str:
    """The text with one blank for each run of whitespace, and none at its ends."""
    return " ".join(text.split())


def _ngram_set(row: AnyRow) -> np.ndarray:
    """The sorted n-grams of a row. A row with fewer words is a single n-gram.

    System prompts do not count: rows may share a long one and have little else in common.
    """
    words = WORD.findall("\n".join(turn.content for turn in row.turns if turn.role != "system"))
    own = np.sort(ngrams(hash_words(words), min(NGRAM, len(words))))
    return own[np.diff(own, prepend=~own[:1]) != 0]


def _rarest(own: np.ndarray, values: np.ndarray, counts: np.ndarray) -> list[int]:
    """The rarest n-grams of a row: a near row shares at least one.

    values, counts: the n-grams that several rows hold, sorted, and their numbers. The row's others
    are rarer, but no other row shares them.
    """
    part, whole = NEAR
    length = len(own) - -(-part * len(own) // whole) + 1
    places = np.searchsorted(values[:-1], own)
    shared = values[places] == own
    own, counts = own[shared], counts[places[shared]]
    length -= len(shared) - len(own)
    return own[np.lexsort((own, counts))[: max(length, 0)]].tolist()


def _are_near(one: np.ndarray, other: np.ndarray) -> bool:
    part, whole = NEAR
    if whole * min(len(one), len(other)) < part * max(len(one), len(other)):
        return False
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return whole * shared >= part * (len(one) + len(other) - shared)
