"""Instruction rows: read, checked, tokenised."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.data.prompts import encode_prompt, format_prompt
from workflow_scripts.errors import UserError

IGNORED = -100
FAULTS_SHOWN = 10
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """number: of the line in a JSONL file, or of the element in a JSON array, from 1."""

    instruction: str
    response: str
    number: int


def read_rows(
    path: Path, instruction_column: str, response_column: str, limit: int | None = None
) -> list[Row]:
    """Rows of a JSONL file, or of a JSON file that holds an array of objects.

    Raises UserError with the place and the fault of each bad row.
    """
    rows, faults = [], []
    for number, place, value in _values(Path(path)):
        if limit is not None and len(rows) == limit:
            break
        fault = _fault(value, instruction_column, response_column)
        if fault:
            faults.append(f"{place}: {fault}")
        else:
            rows.append(Row(value[instruction_column], value[response_column], number))
    if faults:
        more = f"\n... and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise UserError(f"{len(faults)} bad rows:\n" + "\n".join(faults[:FAULTS_SHOWN]) + more)
    if not rows:
        raise UserError(f"{path} holds no rows")
    return rows


def _values(path: Path) -> Iterator[tuple[int, str, object]]:
    """Each row's number, place (for messages) and value; of a line that is no JSON, the error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from None
        for number, value in enumerate(values, 1):
            yield number, f"{path}, row {number}", value
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                value = error
            yield number, f"{path}, line {number}", value


def _fault(value: object, instruction_column: str, response_column: str) -> str | None:
    if isinstance(value, json.JSONDecodeError):
        return f"not valid JSON ({value})"
    if not isinstance(value, dict):
        return "not a JSON object"
    for key, column in (
        ("instruction_column", instruction_column),
        ("response_column", response_column),
    ):
        if column not in value:
            columns = ", ".join(sorted(value)) or "none"
            return f"no column {column!r} (columns: {columns}; set data.{key})"
        if not isinstance(value[column], str):
            return f"column {column!r} is not a string"
        if not value[column].strip():
            return f"column {column!r} is empty"
        if SURROGATE.search(value[column]):
            return f"column {column!r} holds half of a surrogate pair, which is no character"
    return None


def tokenize_rows(rows: list[Row], tokenizer, max_length: int) -> list[dict]:
    """Token ids and labels of each row: prompt, response, EOS; only the last two are trained on.
    `row` is its number.

    A row is cut at `max_length`; one whose prompt fills it is left out. Raises UserError where none
    is left.
    """
    examples = [_example(row, tokenizer, max_length) for row in rows]
    kept = [e for e in examples if any(label != IGNORED for label in e["labels"])]
    if not kept:
        raise UserError(f"no row has a response within max_length = {max_length} tokens")
    return kept


def _example(row: Row, tokenizer, max_length: int) -> dict:
    prompt = encode_prompt(tokenizer, format_prompt(row.instruction))
    response = tokenizer(row.response, add_special_tokens=False)["input_ids"]
    response = [*response, tokenizer.eos_token_id]
    return {
        "input_ids": (prompt + response)[:max_length],
        "labels": ([IGNORED] * len(prompt) + response)[:max_length],
        "row": row.number,
    }
