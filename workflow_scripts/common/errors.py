"""The one exception that a user is meant to read, and what its messages share."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right. The message says what is wrong, where, and what to do.

    A step prints the message alone, without a stack trace, and exits with status 1.
    """


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place in front of the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: a known one that is like it, if any."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ""
