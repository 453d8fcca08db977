"""Conversations: their two forms in public data sets, and what is wrong with them."""

from dataclasses import dataclass

from xft.data.faults import fault_of_object, fault_of_text


@dataclass(frozen=True)
class Turn:
    """What one side says.

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
        if fault := _fault(turn, role, content, names):
            return f"turn {place} {fault}"
        turns.append(Turn(ROLES[names.index(turn[role])], turn[content]))
    if "assistant" not in [turn.role for turn in turns]:
        return "no turn of the assistant"
    if turns[0].role == "assistant":
        return "the assistant has the first turn, and nothing is asked before it"
    return Conversation(tuple(turns), number)


def _fault(turn: object, role: str, content: str, names: tuple[str, ...]) -> str | None:
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
