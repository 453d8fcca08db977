"""The exception for errors that the user can correct, and helpers for its messages."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from xft.common.foreign_text import printable


def counted(number: int, noun: str, ending: str = "s") -> str:
    """A number with its noun, which has the ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def listed(lines: Sequence[str], most: int = 10) -> str:
    """The first lines, and how many more there are."""
    shown = list(lines[:most])
    if len(lines) > most:
        shown.append(f"... and {len(lines) - most} more")
    return "\n".join(shown)


class UserError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what to do.

    A step prints only the message, without a stack trace, and exits with status 1. The message may
    quote what a file says: control characters in it are shown as escapes.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Put a place in front of the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


@contextmanager
def collecting_errors(messages: list[str]) -> Iterator[None]:
    """Add the message of a UserError to others, to tell them together."""
    try:
        yield
    except UserError as error:
        messages.append(str(error))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: a similar known word, if there is one."""
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ""


def described(error, most: int = 3) -> str:
    """The first faults in a pydantic ValidationError, each with its place."""
    faults = []
    for fault in error.errors(include_url=False)[:most]:
        place = ".".join(str(part) for part in fault["loc"])
        faults.append(f"{place}: {fault['msg']}" if place else fault["msg"])
    return "; ".join(faults)
