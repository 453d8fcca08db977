"""The exception for errors that the user can correct, and helpers for its messages."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what to do.

    A step prints only the message, without a stack trace, and exits with status 1.
    """


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place in front of the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: a similar known word, if there is one."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ""
