"""Finds rows that repeat an earlier row, exactly or nearly."""

import re

import numpy as np

from xft.common.progress import progress
from xft.data.instructions import AnyRow
from xft.data.ngrams import ngrams

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
    sets = [_ngram_set(row) for row in rows]
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    holders: dict[int, list[int]] = {}
    found = {}
    for place, own in enumerate(progress(sets, desc="find near duplicates", unit="row")):
        rarest = _rarest(own, counts[np.searchsorted(values, own)])
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
    return np.unique(ngrams(words, min(NGRAM, len(words))))


def _rarest(own: np.ndarray, counts: np.ndarray) -> list[int]:
    """The rarest n-grams of a row: a near row shares at least one. Unique n-grams are left out."""
    part, whole = NEAR
    length = len(own) - -(-part * len(own) // whole) + 1
    chosen = np.lexsort((own, counts))[:length]
    return own[chosen[counts[chosen] > 1]].tolist()


def _are_near(one: np.ndarray, other: np.ndarray) -> bool:
    part, whole = NEAR
    if whole * min(len(one), len(other)) < part * max(len(one), len(other)):
        return False
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return whole * shared >= part * (len(one) + len(other) - shared)
