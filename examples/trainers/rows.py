"""The rows of the workflow, for the other examples of this folder."""

from pathlib import Path

from xft.data.tokenized_rows import open_tokens


def read_rows(tokens: str, model: str) -> list[dict]:
    """The rows that the workflow would train on: input_ids, and labels, -100 for the prompt."""
    opened, _ = open_tokens(Path(tokens), Path(model))
    return [{key: row[key] for key in ("input_ids", "labels")} for row in opened.training]
