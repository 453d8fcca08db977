"""How many rows there are, and how long they are, as far as this machine knows."""

from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.checkpoints.source import find_cached_dataset_file
from workflow_scripts.data.instructions import read_rows
from workflow_scripts.data.prompts import format_prompt

# Of code and English in vocabularies of 32,000 to 150,000 tokens; an estimate.
BYTES_PER_TOKEN = 3.3


@dataclass(frozen=True)
class Rows:
    """number: None where it is unknown; tokens: of a row on average, estimated from its bytes."""

    number: int | None
    tokens: float | None


def find_rows(data: dict, stated: int | None) -> Rows:
    """The rows of the config's section `data`. stated: their number where they are elsewhere.

    Raises UserError where rows that are here cannot be read.
    """
    file = Path(data["train"])
    if data["revision"]:
        file = find_cached_dataset_file(data["train"], data["revision"])
    if file is None or not file.exists():
        return Rows(stated, None)
    rows = read_rows(file, data["instruction_column"], data["response_column"], data["limit"])
    size = sum(len((format_prompt(row.instruction) + row.response).encode()) for row in rows)
    return Rows(len(rows), size / len(rows) / BYTES_PER_TOKEN)
