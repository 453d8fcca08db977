"""Finds rows that contain evaluation problems, by hashes of the problems' texts.

Like StarCoder's authors, it removes a row that holds a problem's docstring or solution, with any
whitespace. Like GPT-3's authors, it removes a row that shares 13 successive words with one of them.
The hashes of HumanEval and MBPP are in a file beside this one, so that no network is needed.
"""

import json
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from xft.data.duplicates import squeeze
from xft.data.ngrams import hash_lower, hash_words, ngrams

# Shorter texts do not identify a problem: "return x + y", "return sorted(set(l))".
SHORTEST = 30  # characters
NGRAM = 13  # words, in lower case, without punctuation
ANCHOR = 3  # words at most
TABLE_BITS = 20
REST_BITS = np.uint64(64 - TABLE_BITS)
WORD = re.compile(r"(\w+)")
SHIPPED = Path(__file__).with_name("humaneval_mbpp.json")  # by tools/write_fingerprints.py


@dataclass(frozen=True)
class Fingerprint:
    """The hashes of a text of a problem that no training row may hold.

    kind: such as "docstring". ngrams: uint64, of its n-grams in order. anchor: the hash of its
    longest inner word and the inner words after it, `size` of them; size is 0 if the text is too
    short to be searched for as a whole. start: where the anchor begins in the text. length: of the
    text, in characters. digest: of the whole text. The text has one blank for each run of
    whitespace.
    """

    problem: str
    kind: str
    ngrams: np.ndarray
    anchor: int
    size: int
    start: int
    length: int
    digest: str

    @classmethod
    def of(cls, problem: str, kind: str, text: str) -> "Fingerprint":
        text = squeeze(text)
        # An inner word stays a whole word in every text that holds this one. Outer words may not.
        inner = list(WORD.finditer(text))[1:-1] if len(text) >= SHORTEST else []
        place = max(range(len(inner)), key=lambda place: len(inner[place][0]), default=0)
        anchor = [match[0] for match in inner[place : place + ANCHOR]]
        value = ngrams(hash_words(anchor), len(anchor)).sum()
        start = inner[place].start() if inner else 0
        shared = _ngrams(WORD.findall(text))
        return cls(problem, kind, shared, int(value), len(anchor), start, len(text), _hash(text))


def read_shipped(name: str) -> list[Fingerprint]:
    """The fingerprints of humaneval or mbpp, from the file that comes with the package."""
    return [
        Fingerprint(problem, kind, np.frombuffer(b64decode(encoded), "<u8"), *rest)
        for problem, kind, encoded, *rest in json.loads(SHIPPED.read_text())[name]
    ]


@dataclass(frozen=True)
class Trace:
    """The part of a problem that a row holds.

    match: for example "solution" or "13 words of its solution". text: as the row holds it, with one
    blank for each run of whitespace, or the words alone.
    """

    problem: str
    match: str
    text: str


class Lookup:
    """What belongs to hashes, for many of which there is nothing.

    A table of bits sorts out nearly all of those before Python looks at them.
    """

    def __init__(self, values: dict[int, Any]):
        self.values = values
        self.may_hold = np.zeros(2**TABLE_BITS, bool)
        self.may_hold[np.array([*values], np.uint64) >> REST_BITS] = True

    def find(self, hashes: np.ndarray) -> Iterator[tuple[int, Any]]:
        """The places of known hashes, in order, with what belongs to them. hashes: uint64 [n]."""
        for place in np.flatnonzero(self.may_hold[hashes >> REST_BITS]):
            if (value := int(hashes[place])) in self.values:
                yield int(place), self.values[value]


class Detector:
    """Finds traces of problems in texts."""

    def __init__(self, fingerprints: list[Fingerprint]):
        self.fingerprints = fingerprints
        self.sizes = sorted({own.size for own in fingerprints if own.size})
        by_anchor, by_ngram = defaultdict(list), {}
        for number, own in enumerate(fingerprints):
            if own.size:
                by_anchor[own.anchor].append(number)
            for value in own.ngrams.tolist():
                by_ngram.setdefault(value, own)
        self.by_anchor, self.by_ngram = Lookup(by_anchor), Lookup(by_ngram)

    def find(self, text: str) -> Trace | None:
        """The first trace of a problem in a text: a whole docstring or solution, else 13 words."""
        squeezed = squeeze(text)
        parts = WORD.split(squeezed)  # between the words and the words, in turn
        words = parts[1::2]
        if candidates := self._candidates(words):
            ends = list(accumulate(map(len, parts)))
            for place, number in sorted(candidates):
                own = self.fingerprints[number]
                begin = ends[2 * place] - own.start
                part = squeezed[begin : begin + own.length]
                if begin >= 0 and len(part) == own.length and _hash(part) == own.digest:
                    return Trace(own.problem, own.kind, part)
        for place, own in self.by_ngram.find(_ngrams(words)):
            shared = " ".join(words[place : place + NGRAM])
            return Trace(own.problem, f"{NGRAM} words of its {own.kind}", shared)
        return None

    def _candidates(self, words: list[str]) -> list[tuple[int, int]]:
        """Where the anchors of fingerprints are: the places of their first words, with numbers."""
        hashes = hash_words(words)
        return [
            (place, number)
            for size in self.sizes
            for place, numbers in self.by_anchor.find(ngrams(hashes, size))
            for number in numbers
        ]


def _ngrams(words: list[str]) -> np.ndarray:
    return ngrams(hash_words(words, hash_lower), NGRAM)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
