"""Reads rows from JSONL, JSON or Parquet files, and checks them."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.common.errors import UserError
from workflow_scripts.data.conversations import FORMS, Conversation, Turn, read_conversation
from workflow_scripts.data.faults import fault_of_object, fault_of_text

FAULTS_SHOWN = 10
PARQUET_MAGIC = b"PAR1"


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


# What `read_rows` asks about each conversation. The answer is the row to use, or a fault.
Accept = Callable[[Conversation], Row | Conversation | str]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. place: its file and its line or row. fault: the reason."""

    number: int
    place: str
    fault: str


def read_rows(
    path: Path,
    instruction_column: str,
    response_column: str,
    limit: int | None = None,
    accept: Accept | None = None,
) -> tuple[list[Row | Conversation], list[BadRow]]:
    """The first `limit` good rows of a file, and the bad ones among them.

    The file is JSONL, a JSON array of objects, or Parquet. A row that lacks one of the two columns
    may hold a conversation, in a column of `conversations.FORMS`. accept: the template's answer to
    a conversation; without it, all are good. Raises UserError if the file is in another format, is
    damaged or holds no row, or if no row has the columns.
    """
    rows, bad, seen = [], [], {}
    columns = {"instruction_column": instruction_column, "response_column": response_column}
    for number, place, value in _values(Path(path), columns):
        if limit is not None and len(rows) == limit:
            break
        if isinstance(value, dict):
            seen |= dict.fromkeys(value)
        row = _row(value, number, columns, accept)
        if isinstance(row, str):
            bad.append(BadRow(number, place, row))
        else:
            rows.append(row)
    if not rows and not bad:
        raise UserError(f"{path} holds no rows")
    if seen and not rows:
        _check_columns(path, columns, list(seen))
    return rows, bad


def describe(bad: list[BadRow]) -> str:
    """The number of bad rows, and the first of them with their faults, one per line."""
    lines = [f"{row.place}: {row.fault}" for row in bad[:FAULTS_SHOWN]]
    more = [f"... and {len(bad) - FAULTS_SHOWN} more"] if len(bad) > FAULTS_SHOWN else []
    return "\n".join([f"{len(bad)} bad rows:", *lines, *more])


def _values(path: Path, columns: dict[str, str]) -> Iterator[tuple[int, str, object]]:
    """Each row's number, its place (for messages) and its value; for a bad JSON line, the error."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    if is_parquet or path.suffix == ".parquet":
        return _parquet_values(path, columns)
    return json_values(path)


def _parquet_values(path: Path, columns: dict[str, str]) -> Iterator[tuple[int, str, object]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(path, columns, file.schema_arrow.names)
            wanted = dict.fromkeys([*columns.values(), *FORMS])
            read = [column for column in wanted if column in file.schema_arrow.names]
            batches = file.iter_batches(columns=read)
            values = (value for batch in batches for value in batch.to_pylist())
            for number, value in enumerate(values, 1):
                yield number, f"{path}, row {number}", value
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from None


def json_values(path: Path) -> Iterator[tuple[int, str, object]]:
    """Each value of a JSONL file or a JSON array: its number, its place (for messages), the value.

    For a line that is not valid JSON, the error is the value. Raises UserError if the file is not
    UTF-8, or is an array that is not valid JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def _check_columns(path: Path, columns: dict[str, str], names: list[str]) -> None:
    """Raise UserError unless the file has these columns, or a column of conversations.

    names: the columns of the file.
    """
    missing = {key: column for key, column in columns.items() if column not in names}
    if missing and not FORMS.keys() & set(names):
        raise UserError(
            f"{path} has no column {' and no column '.join(map(repr, missing.values()))}; its "
            f"columns are {', '.join(names)}: set {' and '.join(f'data.{key}' for key in missing)}"
        )


def _row(
    value: object, number: int, columns: dict[str, str], accept: Accept | None
) -> Row | Conversation | str:
    """The row that a value holds, or the value's fault."""
    if fault := fault_of_object(value):
        return fault
    if column := _conversation_column(value, columns):
        row = read_conversation(value[column], column, number)
        if accept and not isinstance(row, str):
            row = accept(row)
        return f"column {column!r}: {row}" if isinstance(row, str) else row
    return _fault(value, columns) or Row(*(value[name] for name in columns.values()), number)


def _conversation_column(value: dict, columns: dict[str, str]) -> str | None:
    """The column with a row's conversation; None if the row has an instruction and a response.

    A Parquet file has all columns in each row: None stands for a column that a row lacks.
    """
    if all(value.get(column) is not None for column in columns.values()):
        return None
    return next((column for column in FORMS if value.get(column) is not None), None)


def _fault(value: dict, columns: dict[str, str]) -> str | None:
    for key, column in columns.items():
        if column not in value:
            return _no_column(key, column, value)
        if fault := fault_of_text(value[column]):
            return f"column {column!r} {fault}"
    return None


def _no_column(key: str, column: str, names: Iterable[str]) -> str:
    return f"no column {column!r} (columns: {', '.join(sorted(names)) or 'none'}; set data.{key})"
