"""Hashes word n-grams: texts with a common number have a common n-gram."""

import hashlib
from functools import lru_cache

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word's hash loses bits


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
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def hash_words(words: list[str]) -> np.ndarray:
    """The hash of each word, uint64 [words]."""
    return np.fromiter(map(hash_word, words), np.uint64, len(words))
