"""Rows: an instruction with its response, or a conversation; and what is wrong with values.

Conversations have two forms in public data sets.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xft.common.errors import UserError, counted, listed

SURROGATE = re.compile("[\ud800-\udfff]")
HALF_PAIR = "holds half of a surrogate pair, which is not a character"
LONGEST_ROW = 1_000_000  # characters: a tokenizer takes 300 bytes of memory for each
MOST_TURNS = 1_000  # a chat template writes all earlier turns again for each response
INPUT = "input"  # in the form of Alpaca, the text that an instruction is about


def fault_of_object(value: object) -> str | None:
    """The fault of a value of a file of rows, if it is not an object."""
    if isinstance(value, ValueError):
        return f"not valid JSON ({value})"
    return None if isinstance(value, dict) else "not a JSON object"


def fault_of_text(value: object) -> str | None:
    """The fault of a value, in words that follow its name, if it is not a text with content."""
    if not isinstance(value, str):
        return "is not a string"
    if not value.strip():
        return "is empty"
    if SURROGATE.search(value):
        return HALF_PAIR
    return None


@dataclass(frozen=True)
class Turn:
    """A message of one side.

    role: "system", "user" or "assistant".
    """

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation. The assistant has at least one of them, but not the first.

    number: of the row in its file, as in `Row`.
    """

    turns: tuple[Turn, ...]
    number: int

    @property
    def text(self) -> str:
        return "\n".join(turn.content for turn in self.turns)

    @property
    def messages(self) -> list[dict]:
        """The turns as chat templates take them."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    @property
    def responses(self) -> list[int]:
        """The places of the assistant's turns."""
        return [place for place, turn in enumerate(self.turns) if turn.role == "assistant"]


ROLES = ("system", "user", "assistant")


# By the column that holds the turns: the keys of a turn's role and text, and the names of ROLES.
FORMS = {
    "messages": ("role", "content", ROLES),
    "conversations": ("from", "value", ("system", "human", "gpt")),
}


def read_conversation(value: object, column: str, number: int) -> Conversation | str:
    """The conversation that a value of this column holds, or the fault of the value."""
    if not isinstance(value, list):
        return "not a list of turns"
    role, content, names = FORMS[column]
    turns = []
    for place, turn in enumerate(value, 1):
        if fault := _fault_of_turn(turn, role, content, names):
            return f"turn {place} {fault}"
        turns.append(Turn(ROLES[names.index(turn[role])], turn[content]))
    if "assistant" not in [turn.role for turn in turns]:
        return "no turn of the assistant"
    if turns[0].role == "assistant":
        return "the assistant has the first turn, and nothing is asked before it"
    return Conversation(tuple(turns), number)


def _fault_of_turn(turn: object, role: str, content: str, names: tuple[str, ...]) -> str | None:
    if fault := fault_of_object(turn):
        return f"is {fault}"
    for key in (role, content):
        if key not in turn:
            return f"has no key {key!r} (keys: {', '.join(sorted(turn)) or 'none'})"
    if turn[role] not in names:
        shown = repr(turn[role][:99]) if isinstance(turn[role], str) else "a value that is no text"
        return f"has {role!r} = {shown}. Allowed: {', '.join(names)}"
    fault = fault_of_text(turn[content])
    return f"has a {content!r} that {fault}" if fault else None


@dataclass(frozen=True)
class Row:
    """An instruction and its response.

    number: of the line in a JSONL file, or of the row in other files. The first is 1.
    """

    instruction: str
    response: str
    number: int

    @property
    def text(self) -> str:
        return f"{self.instruction}\n{self.response}"

    @property
    def turns(self) -> tuple[Turn, ...]:
        return Turn("user", self.instruction), Turn("assistant", self.response)


AnyRow = Row | Conversation


# Decides on each conversation that `read_rows` reads: gives the row to use, or a fault.
Accept = Callable[[Conversation], AnyRow | str]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    place: its file and its line or row.
    fault: the reason.
    """

    number: int
    place: str
    fault: str


def describe(bad: list[BadRow]) -> str:
    """The number of bad rows, and their faults, one per line, each with the place of the first."""
    places: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in bad:
        places.setdefault(row.fault, row.place)
        counts[row.fault] += 1
    lines = []
    for fault, place in places.items():
        others = counts[fault] - 1
        more = f", and {others} more" if others else ""
        lines.append(f"{place}{more}: {fault}")
    return f"{counted(len(bad), 'bad row')}:\n{listed(lines)}"


def check_bad(bad: list[BadRow], rows: Sequence[AnyRow], policy: str) -> None:
    """Raise UserError if bad rows stop the step, or if no row is good."""
    if bad and (policy == "stop" or not rows):
        hint = "\nCorrect them, or leave them out: data.bad_rows: skip" if rows else ""
        raise UserError(describe(bad) + hint)


def read_row(
    value: object, number: int, columns: dict[str, str], accept: Accept | None
) -> AnyRow | str:
    """The row that a value holds, or the value's fault."""
    if fault := fault_of_object(value):
        return fault
    column = _conversation_column(value, columns)
    if column is None:
        row = _read_instruction(value, number, columns)
        return _unless_too_large(row)
    row = read_conversation(value[column], column, number)
    row = _unless_too_large(row)
    if accept and not isinstance(row, str):
        row = accept(row)
    return f"column {column!r}: {row}" if isinstance(row, str) else row


def _conversation_column(value: dict, columns: dict[str, str]) -> str | None:
    """The column with a row's conversation; None if the row has an instruction and a response.

    A Parquet file has all columns in each row: None stands for a column that a row lacks.
    """
    if all(value.get(column) is not None for column in columns.values()):
        return None
    return next((column for column in FORMS if value.get(column) is not None), None)


def _read_instruction(value: dict, number: int, columns: dict[str, str]) -> Row | str:
    """The instruction and the response that a value holds, or the value's fault.

    In the form of Alpaca, the text that the instruction is about follows it.
    """
    for key, column in columns.items():
        if column not in value:
            names = ", ".join(sorted(value)) or "none"
            return f"no column {column!r} (columns: {names}; set data.{key})"
        if fault := fault_of_text(value[column]):
            return f"column {column!r} {fault}"
    instruction, response = (value[column] for column in columns.values())
    subject = None if INPUT in columns.values() else value.get(INPUT)
    is_blank = isinstance(subject, str) and not subject.strip()
    if subject is None or is_blank:
        return Row(instruction, response, number)
    if fault := fault_of_text(subject):
        return f"column {INPUT!r} {fault}"
    return Row(f"{instruction}\n\n{subject}", response, number)


def _unless_too_large(row: AnyRow | str) -> AnyRow | str:
    """The row, or the fault of its size. A fault of another kind stays as it is."""
    if isinstance(row, str):
        return row
    if len(row.turns) > MOST_TURNS:
        return f"more than {MOST_TURNS:,} turns"
    if sum(len(turn.content) for turn in row.turns) > LONGEST_ROW:
        return f"longer than {LONGEST_ROW:,} characters"
    return row
