"""Rows that say again what an earlier row says: to the letter, or nearly."""

import re

import numpy as np

from workflow_scripts.common.progress import progress
from workflow_scripts.data.instructions import Row
from workflow_scripts.data.ngrams import ngrams

# Near: the sets of n-grams of words and marks have a Jaccard similarity of at least 4/5.
NEAR = (4, 5)
NGRAM = 5
WORD = re.compile(r"\w+|[^\w\s]")


def find_exact(rows: list[Row]) -> dict[int, int]:
    """The number of each row that repeats an earlier one but for whitespace, and of the first."""
    first, found = {}, {}
    for row in rows:
        key = squeeze(row.instruction), squeeze(row.response)
        if key in first:
            found[row.number] = first[key]
        else:
            first[key] = row.number
    return found


def find_near(rows: list[Row]) -> dict[int, int]:
    """The number of each row that is near to an earlier one that stays, and of that one.

    Exact, not estimated. Two sets are only as similar as this if they share one of their rarest
    n-grams: of a set of s, of its s - ceil(4/5 s) + 1 rarest (prefix filtering, Bayardo et al.
    2007). Only rows that share one of those are compared.
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
    """The text with a single blank for each run of whitespace, and none around it."""
    return " ".join(text.split())


def _ngram_set(row: Row) -> np.ndarray:
    """The sorted n-grams of a row; of a row with fewer words, all of them as one n-gram."""
    words = WORD.findall(row.text)
    return np.unique(ngrams(words, min(NGRAM, len(words))))


def _rarest(own: np.ndarray, counts: np.ndarray) -> list[int]:
    """The n-grams by which a similar row must be found; not those that no other row has."""
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
