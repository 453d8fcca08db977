"""Says at which settings methods are compared, if they were chosen."""

from collections.abc import Iterable, Iterator

from xft.evaluation.choice import choice_text
from xft.reporting.run_table import Result

INTRODUCTION = (
    "Each method is at its chosen setting: that with the lowest mean loss on the choice rows, "
    "which no figure here counts."
)


def chosen_lines(choices: Iterable[Result]) -> Iterator[str]:
    """A sentence, then the setting of each method; none if nothing was chosen.

    choices: the results of step choose.
    """
    lines = [f"{choice.subject.label}: {choice_text(choice.content)}." for choice in choices]
    if lines:
        yield INTRODUCTION
        yield from lines
