"""Finds rows that contain evaluation problems.

Like StarCoder's authors, it removes a row that holds a problem's docstring or solution, with any
whitespace. Like GPT-3's authors, it removes a row that shares 13 successive words with one of them.
"""

import re
from dataclasses import dataclass

from xft.data.duplicates import squeeze
from xft.data.ngrams import ngrams

# Shorter texts do not identify a problem: "return x + y", "return sorted(set(l))".
SHORTEST = 30  # characters
NGRAM = 13  # words, in lower case, without punctuation
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Reference:
    """The texts of a problem that no training row may hold, by kind, such as "docstring"."""

    problem: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Trace:
    """The part of a problem that a row holds.

    match: for example "solution" or "13 words of its solution". text: the words themselves.
    """

    problem: str
    match: str
    text: str


class Detector:
    """Finds traces of problems in texts."""

    def __init__(self, references: list[Reference]):
        self.by_word: dict[str, list[Trace]] = {}
        self.by_ngram: dict[int, Trace] = {}
        for reference in references:
            for kind, text in reference.texts.items():
                self._add(reference.problem, kind, squeeze(text))

    def _add(self, problem: str, kind: str, text: str) -> None:
        words = WORD.findall(text)
        # An inner word stays a whole word in every text that holds this one. Outer words may not.
        inner = words[1:-1]
        if len(text) >= SHORTEST and inner:
            self.by_word.setdefault(max(inner, key=len), []).append(Trace(problem, kind, text))
        for number, value in enumerate(_ngrams(words)):
            shared = " ".join(words[number : number + NGRAM])
            trace = Trace(problem, f"{NGRAM} words of its {kind}", shared)
            self.by_ngram.setdefault(value, trace)

    def find(self, text: str) -> Trace | None:
        """The first trace of a problem in a text: a whole docstring or solution, else 13 words."""
        squeezed = squeeze(text)
        words = WORD.findall(squeezed)
        for word in sorted(self.by_word.keys() & set(words)):
            for trace in self.by_word[word]:
                if trace.text in squeezed:
                    return trace
        shared = (self.by_ngram[value] for value in _ngrams(words) if value in self.by_ngram)
        return next(shared, None)


def _ngrams(words: list[str]) -> list[int]:
    return ngrams([word.lower() for word in words], NGRAM).tolist()
