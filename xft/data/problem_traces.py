"""Finds rows that contain evaluation problems, by hashes of the problems' texts.

Like StarCoder's authors, it removes a row that holds a problem's docstring or solution, with any
whitespace. Like GPT-3's authors, it removes a row that shares 13 successive words with one of them.
The hashes of HumanEval and MBPP are in a file beside this one, so that no network is needed.
"""

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np

from xft.data.duplicates import hash_words, ngrams, squeeze

# Shorter texts do not identify a problem: "return x + y", "return sorted(set(l))".
SHORTEST = 30  # characters
NGRAM = 13  # words, in lower case, without punctuation
ANCHOR = 3  # words at most
WORD = re.compile(r"(\w+)")
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
        inner = list(WORD.finditer(text))[1:-1] if len(text) >= SHORTEST else []
        longest = max(range(len(inner)), key=lambda place: len(inner[place][0]), default=0)
        first = max(min(longest, len(inner) - ANCHOR), 0)
        anchor = [match[0] for match in inner[first : first + ANCHOR]]
        searched = int(ngrams(hash_words(anchor), len(anchor)).sum()), len(anchor), longest - first
        start = inner[longest].start() if inner else 0
        shared = _ngrams(WORD.findall(text))
        return cls(problem, kind, shared, *searched, start, len(text), _hash(text))


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
        parts = WORD.split(squeezed)  # between the words and the words, in turn
        words = parts[1::2]
        hashes, ends = hash_words(words), list(accumulate(map(len, parts)))
        anchors = (
            (place + self.fingerprints[number].before, number)
            for size in self.sizes
            for place, value in enumerate(ngrams(hashes, size).tolist())
            for number in self.by_anchor.get(value, ())
        )
        for place, number in sorted(anchors):
            known = self.fingerprints[number]
            begin = ends[2 * place] - known.start
            part = squeezed[begin : begin + known.length]
            if begin >= 0 and len(part) == known.length and _hash(part) == known.digest:
                return Trace(known.problem, known.kind, part)
        for place, value in enumerate(_ngrams(words).tolist()):
            if known := self.by_ngram.get(value):
                shared = " ".join(words[place : place + NGRAM])
                return Trace(known.problem, f"{NGRAM} words of its {known.kind}", shared)
        return None


def _ngrams(words: list[str]) -> np.ndarray:
    return ngrams(hash_words([word.lower() for word in words]), NGRAM)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
