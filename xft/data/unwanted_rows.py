"""Finds rows to leave out: those that repeat an earlier row, or hold an evaluation problem.

A row repeats another one exactly, or nearly, by the hashes of their word n-grams. Problems are
found by hashes of their texts. Like StarCoder's authors, `Detector` finds a row that holds a
problem's docstring or solution, with any whitespace. Like GPT-3's authors, it finds a row that
shares 13 successive words with one of them. The hashes of HumanEval and MBPP are in a file beside
this one, so that no network is needed.
"""

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np

from xft.common.progress import progress
from xft.common.system import spread
from xft.data.instruction_rows import AnyRow
from xft.data.row_files import DiskArray, blocks

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word's hash loses bits
# Near rows: their sets of n-grams of words and punctuation have a Jaccard similarity >= 4/5.
NEAR = (4, 5)
NGRAM = 5
COUNTED_AT_ONCE = 2**25  # n-grams: a GiB of memory
WORD = re.compile(r"\w+|[^\w\s]")


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """The hash of each n-gram in order, uint64 [words - n + 1]; empty for fewer words.

    hashes: of the words, uint64 [words]. An n-gram's is the sum of hashes[i] * FACTOR ** i modulo 2
    ** 64, the same in every process.
    """
    count = max(len(hashes) - n + 1, 0)
    total = np.zeros(count, np.uint64)
    for place in reversed(range(n)):
        total = total * FACTOR + hashes[place : place + count]
    return total


@lru_cache(maxsize=2**20)
def hash_word(word: str) -> int:
    """64 bits of a word's BLAKE2b."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def hash_words(words: list[str]) -> np.ndarray:
    """The hash of each word, uint64 [words]."""
    return np.fromiter(map(hash_word, words), np.uint64, len(words))


def find_exact(rows: Sequence[AnyRow]) -> dict[int, int]:
    """For each row that equals an earlier one except for whitespace: its number and the first's."""
    first_numbers = {}
    repeated = {}
    for row in progress(rows, desc="find duplicates", unit="row"):
        turns = [(turn.role, squeeze(turn.content)) for turn in row.turns]
        key = blake2b(json.dumps(turns).encode(), digest_size=16).digest()
        first = first_numbers.setdefault(key, row.number)
        if first != row.number:
            repeated[row.number] = first
    return repeated


def find_near(rows: Sequence[AnyRow]) -> dict[int, int]:
    """For each row that is near to an earlier row that stays: its number and the earlier one's.

    The result is exact, not an estimate. Two near sets must share one of their rarest n-grams: for
    a set of size s, one of the s - ceil(4/5 s) + 1 rarest (prefix filtering, Bayardo et al. 2007).
    Only rows that share one of these are compared.
    """
    sets = DiskArray(np.uint64)
    for ngram_set in spread(_ngram_set, rows, desc="read for near duplicates", unit="row"):
        sets.append(ngram_set)
    values, counts = _shared(sets)
    if not len(values):
        return {}
    rarest = DiskArray(np.int64)
    sizes = np.zeros(len(values), np.int64)
    for place in progress(range(len(rows)), desc="find rare words", unit="row"):
        rare = _rarest(sets.part(place), values, counts)
        rarest.append(rare)
        sizes[rare] += 1
    holders = _Holders(sizes)
    lengths = np.diff(sets.offsets)
    repeated = {}
    for place in progress(range(len(rows)), desc="find near duplicates", unit="row"):
        rare = rarest.part(place)
        ngram_set = sets.part(place)
        others, shared = np.unique(holders.rows(rare), return_counts=True)
        candidates = others[_may_be_near(len(ngram_set), lengths[others], shared)].tolist()
        near = next((row for row in candidates if _are_near(ngram_set, sets.part(row))), None)
        if near is None:
            holders.add(place, rare)
        else:
            repeated[rows[place].number] = rows[near].number
    return repeated


class _Holders:
    """The rows that stay, by the n-grams that are among their rarest.

    sizes: int64 [n-grams], the most rows that may hold each among their rarest.
    """

    def __init__(self, sizes: np.ndarray):
        # Those of n-gram i are _rows[_begins[i] : _ends[i]].
        self._begins = np.cumsum(sizes) - sizes
        self._ends = self._begins.copy()
        self._rows = np.empty(sizes.sum(), np.int32)

    def rows(self, ngrams: np.ndarray) -> np.ndarray:
        """The places of rows, int32, as often as they share one of these n-grams."""
        parts = [self._rows[:0]]
        for begin, end in zip(self._begins[ngrams], self._ends[ngrams], strict=True):
            parts.append(self._rows[begin:end])
        return np.concatenate(parts)

    def add(self, row: int, ngrams: np.ndarray) -> None:
        """Add a row that stays. ngrams: the places of its rarest ones."""
        self._rows[self._ends[ngrams]] = row
        self._ends[ngrams] += 1


def _shared(sets: DiskArray) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams that several rows hold, uint64, sorted, and the numbers of these rows.

    sets: the n-grams of all rows. They are counted in parts, by their size.
    """
    parts = 1 + len(sets) // COUNTED_AT_ONCE
    width = 2**64 // parts + 1
    shared_values = []
    shared_counts = []
    for low in range(0, 2**64, width):
        high = min(low + width, 2**64) - 1
        within = [block[(block >= low) & (block <= high)] for block in blocks(sets)]
        values, counts = np.unique(np.concatenate(within), return_counts=True)
        is_shared = counts > 1
        shared_values.append(values[is_shared])
        shared_counts.append(counts[is_shared])
    return np.concatenate(shared_values), np.concatenate(shared_counts)


def squeeze(text: str) -> str:
    """The text with one blank for whitespace of any length, and none at its ends."""
    return " ".join(text.split())


def _ngram_set(row: AnyRow) -> np.ndarray:
    """The sorted n-grams of a row. A row with fewer words is a single n-gram.

    System prompts do not count: rows may share a long one and have little else in common.
    """
    words = WORD.findall("\n".join(turn.content for turn in row.turns if turn.role != "system"))
    hashes = np.sort(ngrams(hash_words(words), min(NGRAM, len(words))))
    return hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]


def _rarest(row: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The places in `values` of the rarest n-grams of a row: a near row shares at least one.

    values, counts: as of `_shared`. The row's others are rarer, but no other row shares them.
    """
    places = np.searchsorted(values[:-1], row)
    shared = places[values[places] == row]
    length = len(shared) - _least(len(row)) + 1
    return shared[np.lexsort((shared, counts[shared]))[: max(length, 0)]]


def _least(length):
    """The size of the smallest set that may be near to one of this length: ceil(4/5 length)."""
    part, whole = NEAR
    return -(-part * length // whole)


def _may_be_near(length: int, others: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Whether a row may be near to others, by the sizes of the sets.

    shared: the numbers of n-grams that are among the rarest of both. Of one of the two rows, all
    shared n-grams but these are among the ceil(4/5 s) - 1 that are not its rarest.
    """
    part, whole = NEAR
    others_may = np.maximum(_least(length), _least(others)) - 1
    are_long = (length >= _least(others)) & (others >= _least(length))
    return are_long & ((part + whole) * (shared + others_may) >= part * (length + others))


def _are_near(first: np.ndarray, second: np.ndarray) -> bool:
    part, whole = NEAR
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return whole * shared >= part * (len(first) + len(second) - shared)


# Shorter texts do not identify a problem: "return x + y", "return sorted(set(l))".
SHORTEST = 30  # characters
WORDS_IN_COMMON = 13  # words, in lower case, without punctuation
ANCHOR = 3  # words at most
PLAIN_WORD = re.compile(r"(\w+)")
SHIPPED = Path(__file__).with_name("humaneval_mbpp.json")  # by tools/write_fingerprints.py


@dataclass(frozen=True)
class Fingerprint:
    """The hashes of a text of a problem that no training row may hold.

    The text has a single blank for whitespace of any length.

    kind: such as "docstring".
    ngrams: uint64, of its n-grams in order.
    anchor: the hash of `size` inner words, among them the longest; size is 0 if the text is too
    short to be searched for as a whole.
    before: the number of these words before the longest.
    start: where the longest begins in the text.
    length: of the text, in characters.
    digest: of the whole text.
    """

    problem: str
    kind: str
    ngrams: np.ndarray
    anchor: int
    size: int
    before: int
    start: int
    length: int
    digest: str

    @classmethod
    def of(cls, problem: str, kind: str, text: str) -> "Fingerprint":
        text = squeeze(text)
        # An inner word stays a whole word in every text that holds this one. Outer words may not.
        inner = list(PLAIN_WORD.finditer(text))[1:-1] if len(text) >= SHORTEST else []
        longest = max(range(len(inner)), key=lambda place: len(inner[place][0]), default=0)
        first = max(min(longest, len(inner) - ANCHOR), 0)
        anchor = [match[0] for match in inner[first : first + ANCHOR]]
        return cls(
            problem=problem,
            kind=kind,
            ngrams=_ngrams(PLAIN_WORD.findall(text)),
            anchor=int(ngrams(hash_words(anchor), len(anchor)).sum()),
            size=len(anchor),
            before=longest - first,
            start=inner[longest].start() if inner else 0,
            length=len(text),
            digest=_hash(text),
        )


def read_shipped(name: str) -> list[Fingerprint]:
    """The fingerprints of humaneval or mbpp, from the file that comes with the package."""
    return [
        Fingerprint(problem, kind, np.frombuffer(b64decode(encoded), "<u8"), *rest)
        for problem, kind, encoded, *rest in json.loads(SHIPPED.read_text())[name]
    ]


@dataclass(frozen=True)
class Trace:
    """The part of a problem that a row holds.

    match: for example "solution" or "13 words of its solution".
    text: as the row holds it, with one blank for whitespace of any length, or the words alone.
    """

    problem: str
    match: str
    text: str


class Detector:
    """Finds traces of problems in texts."""

    def __init__(self, fingerprints: list[Fingerprint]):
        self.fingerprints = fingerprints
        self.sizes = {fingerprint.size for fingerprint in fingerprints} - {0}
        self.by_anchor: dict[int, list[int]] = {}
        self.by_ngram: dict[int, Fingerprint] = {}
        for number, fingerprint in enumerate(fingerprints):
            if fingerprint.size:
                self.by_anchor.setdefault(fingerprint.anchor, []).append(number)
            for value in fingerprint.ngrams.tolist():
                self.by_ngram.setdefault(value, fingerprint)

    def find(self, text: str) -> Trace | None:
        """The first trace of a problem in a text: a whole docstring or solution, else 13 words."""
        squeezed = squeeze(text)
        parts = PLAIN_WORD.split(squeezed)  # between the words and the words, in turn
        words = parts[1::2]
        ends = list(accumulate(map(len, parts)))
        for place, number in self._anchors(hash_words(words)):
            known = self.fingerprints[number]
            begin = ends[2 * place] - known.start
            part = squeezed[begin : begin + known.length]
            if begin >= 0 and len(part) == known.length and _hash(part) == known.digest:
                return Trace(known.problem, known.kind, part)
        for place, value in enumerate(_ngrams(words).tolist()):
            if known := self.by_ngram.get(value):
                shared = " ".join(words[place : place + WORDS_IN_COMMON])
                return Trace(known.problem, f"{WORDS_IN_COMMON} words of its {known.kind}", shared)
        return None

    def _anchors(self, hashes: np.ndarray) -> list[tuple[int, int]]:
        """The places of words where the longest of an anchor stands, with its fingerprint's number.

        They are in order. hashes: of the words, uint64 [words].
        """
        anchors = []
        for size in self.sizes:
            for place, value in enumerate(ngrams(hashes, size).tolist()):
                for number in self.by_anchor.get(value, ()):
                    anchors.append((place + self.fingerprints[number].before, number))
        return sorted(anchors)


def _ngrams(words: list[str]) -> np.ndarray:
    return ngrams(hash_words([word.lower() for word in words]), WORDS_IN_COMMON)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
