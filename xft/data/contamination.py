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
from pathlib import Path

import numpy as np

from xft.data.duplicates import squeeze
from xft.data.ngrams import hash_word, ngrams

# Shorter texts do not identify a problem: "return x + y", "return sorted(set(l))".
SHORTEST = 30  # characters
NGRAM = 13  # words, in lower case, without punctuation
WORD = re.compile(r"\w+")
SHIPPED = Path(__file__).with_name("humaneval_mbpp.json")  # by tools/write_fingerprints.py


@dataclass(frozen=True)
class Fingerprint:
    """The hashes of a text of a problem that no training row may hold.

    kind: such as "docstring". ngrams: uint64, of its n-grams in order. word: the hash of its
    longest inner word, 0 if the text is too short to be searched for as a whole. start: where that
    word begins in the text. length: of the text, in characters. digest: of the whole text. The text
    has one blank for each run of whitespace.
    """

    problem: str
    kind: str
    ngrams: np.ndarray
    word: int
    start: int
    length: int
    digest: str

    @classmethod
    def of(cls, problem: str, kind: str, text: str) -> "Fingerprint":
        text = squeeze(text)
        # An inner word stays a whole word in every text that holds this one. Outer words may not.
        inner = list(WORD.finditer(text))[1:-1] if len(text) >= SHORTEST else []
        longest = max(inner, key=lambda match: len(match[0]), default=None)
        word, start = (hash_word(longest[0]), longest.start()) if longest else (0, 0)
        return cls(problem, kind, _ngrams(WORD.findall(text)), word, start, len(text), _hash(text))


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


class Detector:
    """Finds traces of problems in texts."""

    def __init__(self, fingerprints: list[Fingerprint]):
        self.by_word: dict[int, list[Fingerprint]] = {}
        self.by_ngram: dict[int, Fingerprint] = {}
        for own in fingerprints:
            if own.word:
                self.by_word.setdefault(own.word, []).append(own)
            for value in own.ngrams.tolist():
                self.by_ngram.setdefault(value, own)

    def find(self, text: str) -> Trace | None:
        """The first trace of a problem in a text: a whole docstring or solution, else 13 words."""
        squeezed = squeeze(text)
        matches = list(WORD.finditer(squeezed))
        for match in matches:
            for own in self.by_word.get(hash_word(match[0]), ()):
                begin = match.start() - own.start
                part = squeezed[begin : begin + own.length]
                if begin >= 0 and len(part) == own.length and _hash(part) == own.digest:
                    return Trace(own.problem, own.kind, part)
        words = [match[0] for match in matches]
        for place, value in enumerate(_ngrams(words).tolist()):
            if own := self.by_ngram.get(value):
                shared = " ".join(words[place : place + NGRAM])
                return Trace(own.problem, f"{NGRAM} words of its {own.kind}", shared)
        return None


def _ngrams(words: list[str]) -> np.ndarray:
    return ngrams([word.lower() for word in words], NGRAM)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
