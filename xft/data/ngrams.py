"""Hashes word n-grams: texts with a common number have a common n-gram."""

import hashlib
from functools import lru_cache

import numpy as np

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word's hash loses bits


def ngrams(words: list[str], n: int) -> np.ndarray:
    """The hash of each n-gram in order, uint64 [len(words) - n + 1]; empty for fewer words.

    A hash is the sum of hash(word i) * FACTOR ** i modulo 2 ** 64, the same in every process.
    """
    if len(words) < n:
        return np.zeros(0, np.uint64)
    hashes = np.fromiter(map(hash_word, words), np.uint64, len(words))
    powers = FACTOR ** np.arange(n, dtype=np.uint64)
    return (np.lib.stride_tricks.sliding_window_view(hashes, n) * powers).sum(axis=1)


@lru_cache(maxsize=2**20)
def hash_word(word: str) -> int:
    """64 bits of a word's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
