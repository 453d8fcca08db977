"""Shows what files say that others wrote: as text, which neither a terminal nor a reader obeys."""

import re
from typing import TextIO

# Characters that a terminal obeys instead of showing them, apart from tab and line feed.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
ENDS = str.maketrans({"\n": r"\n", "\t": r"\t"})
# In Markdown: what begins an HTML element, and what makes a link or an image.
ELEMENT = re.compile("<(?=[A-Za-z/!?])")
LINK = re.compile(r"\](?=[(\[])")


def printable(text: str) -> str:
    """The text with escapes in place of control characters, for a terminal."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A name that others gave as a part of a line: line feeds and tabs are escapes too."""
    return printable(text).translate(ENDS)


def without_markup(text: str) -> str:
    """Markdown in which names are text: HTML and links in it are escaped, and control characters.

    What the text says itself must have neither.
    """
    without_elements = ELEMENT.sub("&lt;", printable(text))
    return LINK.sub(r"]\\", without_elements)


def escape_writes(stream: TextIO) -> None:
    """Let a stream write `printable` text."""
    write = stream.write
    stream.write = lambda text: write(printable(text))
