"""Conversations: their two forms in public data sets, and what is wrong with them."""

from dataclasses import dataclass

from xft.data.faults import fault_of_text


@dataclass(frozen=True)
class Turn:
    """What one side says. role: "system", "user" or "assistant"."""

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


@dataclass(frozen=True)
class Form:
    """The keys of a turn in a file, and the role for each value of the key `role`."""

    role: str
    content: str
    roles: dict[str, str]


# By the column that holds the turns.
FORMS = {
    "messages": Form("role", "content", {name: name for name in ("system", "user", "assistant")}),
    "conversations": Form(
        "from", "value", {"system": "system", "human": "user", "gpt": "assistant"}
    ),
}


def read_conversation(value: object, column: str, number: int) -> Conversation | str:
    """The conversation that a value of this column holds, or the fault of the value."""
    form = FORMS[column]
    if not isinstance(value, list):
        return "not a list of turns"
    faults = (_fault(turn, place, form) for place, turn in enumerate(value, 1))
    if fault := next(filter(None, faults), None):
        return fault
    turns = tuple(Turn(form.roles[turn[form.role]], turn[form.content]) for turn in value)
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        return "no turn of the assistant"
    if roles[0] == "assistant":
        return "the assistant has the first turn, and nothing is asked before it"
    return Conversation(turns, number)


def _fault(turn: object, place: int, form: Form) -> str | None:
    if not isinstance(turn, dict):
        return f"turn {place} is not an object"
    for key in (form.role, form.content):
        if key not in turn:
            return f"turn {place} has no key {key!r} (keys: {', '.join(sorted(turn)) or 'none'})"
    role = turn[form.role]
    if not isinstance(role, str) or role not in form.roles:
        allowed = ", ".join(form.roles)
        shown = repr(role[:99]) if isinstance(role, str) else "a value that is no text"
        return f"turn {place} has {form.role!r} = {shown}. Allowed: {allowed}"
    fault = fault_of_text(turn[form.content])
    return f"{form.content!r} of turn {place} {fault}" if fault else None
