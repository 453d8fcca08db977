"""The conclusions of the summary. They are drawn once: step summary writes them for the page."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from xft.common.errors import UserError, described
from xft.common.json_files import read_json
from xft.reporting.verdict import Verdict


@dataclass(frozen=True)
class Conclusions:
    """The sentences of a summary.

    verdict: None if no tuned model was compared.
    not_asked: what comes before the verdict if it was not asked for; else empty.
    answers: sentences that answer what the configuration asks, each with those that explain it.
    statistics: sentences on what the comparisons show.
    settings: sentences on the settings of the methods; none if these were not chosen.
    """

    verdict: Verdict | None
    not_asked: str
    answers: list[tuple[str, list[str]]]
    statistics: list[str]
    settings: list[str]

    def to_json(self) -> str:
        """The form in which step summary writes them. The models keep their order."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_conclusions(file: Path) -> Conclusions:
    """Read what step summary wrote. Raises UserError if the file is missing or broken."""
    content = read_json(file)
    try:
        return TypeAdapter(Conclusions).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{file} is not what step summary writes: {described(error)}") from None
