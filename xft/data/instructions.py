"""Reads rows from JSONL, JSON, CSV or Parquet files, and checks them."""

import csv
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xft.common.errors import UserError, counted, listed
from xft.common.files import check_size, open_unpacked, read_lines, read_text
from xft.common.json_lines import MAX_LINE, parse_json, read_json_lines, text_of_line, unique
from xft.config.sections import TokensConfig
from xft.data.conversations import FORMS, Conversation, Turn, read_conversation
from xft.data.faults import fault_of_object, fault_of_text

LONGEST_FAULT = 300  # characters: a fault may quote the row
LONGEST_ROW = 1_000_000  # characters: a tokenizer takes 300 bytes of memory for each
MOST_TURNS = 1_000  # a chat template writes all earlier turns again for each response
LARGEST_ARRAY = 2**30  # bytes of a JSON array, which is read whole
VALUE_BYTES = 100  # of memory that a value of a Parquet file takes beside its text
PARQUET_MAGIC = b"PAR1"
HEAD = 4096  # bytes that show a file's format
INPUT = "input"  # in the form of Alpaca, the text that an instruction is about
CSV = re.compile(r"\.csv(\.gz)?$", re.I)  # the names of files whose content is read as CSV
JSON = re.compile(r"\.(jsonl?|ndjson)(\.gz)?$", re.I)
SEPARATED = "{} has {!r} between its columns. Write it with commas: docs/data.md says how"
NOT_READ = re.compile(r"\.(tsv|xlsx?|arrow|feather|zip|zst|bz2|xz|parquet\.gz)(\.gz)?$", re.I)


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
# What `read_rows` asks about each conversation. The answer is the row to use, or a fault.
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


def read_rows(
    path: Path, options: TokensConfig, limit: int | None, accept: Accept | None, before: int = 0
) -> Iterator[AnyRow | BadRow]:
    """The rows of a file in order, until `limit` of them are good.

    The file is JSONL, a JSON array of objects, CSV, or Parquet. A row that lacks one of the two
    columns may hold a conversation, in a column of `conversations.FORMS`. Raises UserError if the
    file is in another format, is damaged, too large or holds no row, or if no row has the columns.

    options: with the names of the columns.
    accept: the template's answer to a conversation; without it, all are good.
    before: is added to the rows' numbers.
    """
    good, bad, seen = 0, 0, {}
    columns = {key: getattr(options, key) for key in ("instruction_column", "response_column")}
    unit, values = _values(path, columns)
    for number, value in values:
        if good == limit:
            break
        if isinstance(value, dict):
            seen |= dict.fromkeys(value)
        row = _row(value, before + number, columns, accept)
        if isinstance(row, str):
            bad += 1
            yield BadRow(before + number, f"{path}, {unit} {number}", row[:LONGEST_FAULT])
        else:
            good += 1
            yield row
    if not good and not bad:
        raise UserError(f"{path} holds no rows")
    if seen and not good:
        _check_columns(path, columns, list(seen))


def describe(bad: list[BadRow]) -> str:
    """The number of bad rows, and their faults, one per line, each with the place of the first."""
    first, numbers = {row.fault: row.place for row in bad[::-1]}, Counter(row.fault for row in bad)
    more = {fault: f", and {n - 1} more" if n > 1 else "" for fault, n in numbers.items()}
    lines = [f"{first[fault]}{more[fault]}: {fault}" for fault in numbers]
    return f"{counted(len(bad), 'bad row')}:\n{listed(lines)}"


def check_bad(bad: list[BadRow], rows: Sequence[AnyRow], policy: str) -> None:
    """Raise UserError if bad rows stop the step, or if no row is good."""
    if bad and (policy == "stop" or not rows):
        hint = "\nCorrect them, or leave them out: data.bad_rows: skip" if rows else ""
        raise UserError(describe(bad) + hint)


def check_format(name: str) -> None:
    """Raise UserError if a file's name ends as one of a format that is not read."""
    if ending := NOT_READ.search(name):
        raise UserError(
            f"{name}: rows are read from JSON Lines (.jsonl), a JSON array (.json) or CSV (.csv), "
            f"each also as .gz, and from Parquet (.parquet), not from {ending[0]}. docs/data.md "
            "says how to convert other formats"
        )


def _values(path: Path, columns: dict[str, str]) -> tuple[str, Iterator[tuple[int, object]]]:
    """What is counted, "line" or "row", and the number and the value of each.

    For a line that is not valid JSON, or an object with a key twice, the error is the value. Raises
    UserError if the file is missing, is no regular file or is in another format.
    """
    check_format(str(path))
    head = _head(path)
    if head.startswith(PARQUET_MAGIC) or path.suffix.lower() == ".parquet":
        return "row", enumerate(_parquet_values(path, columns), 1)
    if CSV.search(path.name):
        return "row", enumerate(_csv_values(path, columns), 1)
    if head.startswith(b"["):
        return "row", enumerate(_array_values(path), 1)
    if head[:1] not in b"{" and not JSON.search(path.name):
        raise UserError(
            f"{path} does not begin as JSON. If it is CSV, let its name end in .csv; if it is JSON "
            "Lines with a fault, in .jsonl"
        )
    return "line", read_json_lines(path)


def _head(path: Path) -> bytes:
    """The first bytes of a file, without a BOM and blanks in front."""
    with open_unpacked(path) as file:
        return file.read(HEAD).removeprefix(BOM_UTF8).lstrip()


def is_array(path: Path) -> bool:
    """Whether a file of rows holds a JSON array, by its first bytes."""
    return _head(path).startswith(b"[")


def _parquet_values(path: Path, columns: dict[str, str]) -> Iterator[dict]:
    """The rows. A small file may unpack to much: sizes are checked before that is in memory."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        names = schema.names
        _check_columns(path, columns, names)
        wanted = dict.fromkeys([*columns.values(), *FORMS, INPUT])
        read = [column for column in wanted if column in names]
        _check_once(path, read, names)
        if maps := [column for column in read if "map<" in str(schema.field(column).type)]:
            raise UserError(
                f"{path} has maps in the column {maps[0]!r}, which are not read. Write objects "
                "(structs) in their place, or JSON Lines"
            )
        chunks = [
            chunk
            for group in map(metadata.row_group, range(metadata.num_row_groups))
            for chunk in map(group.column, range(group.num_columns))
            if any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in read)
        ]
        sizes = (c.total_uncompressed_size + VALUE_BYTES * c.num_values for c in chunks)
        check_size(path, sum(sizes))
        # A text that many rows repeat is in memory once, until the rows' texts are made.
        texts = {chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
        with parquet.ParquetFile(path, read_dictionary=sorted(texts)) as file:
            size = 0
            for batch in file.iter_batches(columns=read):
                size += sum(map(_text_bytes, batch.columns))
                check_size(path, size)
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from None


def _csv_values(path: Path, columns: dict[str, str]) -> Iterator[dict]:
    """The rows. The first line that is not blank names the columns. All values are texts."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        while (names := reader.fieldnames) is not None and not "".join(names).strip():
            reader.fieldnames = None  # blank lines may be in front of the names
        if names and len(names) == 1 and (mark := re.search("[;\t|]", names[0])):
            raise UserError(SEPARATED.format(path, mark[0]))
        if names:
            _check_columns(path, columns, names)
            _check_once(path, names, names)
        for value in reader:
            if None in value:
                raise csv.Error("it has more values than there are columns")
            yield value
    except csv.Error as error:
        line = reader.reader.line_num
        raise UserError(f"{path} is not valid CSV: line {line}: {error}") from None


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(path, MAX_LINE), 1):
        if line is None:
            raise UserError(f"{path}, line {number}: longer than {MAX_LINE / 2**20:,.0f} MiB")
        yield text_of_line(path, number, line)


def _text_bytes(array) -> int:
    """The bytes of all texts in a column whose texts are encoded as dictionaries."""
    import pyarrow
    from pyarrow import compute

    if isinstance(array, pyarrow.DictionaryArray):
        lengths = compute.binary_length(array.dictionary)
        return compute.sum(lengths.take(array.indices)).as_py() or 0
    if isinstance(array, pyarrow.StructArray):
        return sum(map(_text_bytes, array.flatten()))
    if isinstance(array, pyarrow.ListArray | pyarrow.LargeListArray):
        return _text_bytes(array.flatten())
    return array.nbytes


def _array_values(path: Path) -> list:
    """The values of a JSON array. Raises UserError if it is too large, or not valid JSON."""
    try:
        return parse_json(read_text(path, LARGEST_ARRAY), _object_or_fault)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def _object_or_fault(pairs: list[tuple[str, object]]) -> dict | ValueError:
    """An object, or the fault if it, or an object that is a value of it, holds a key twice."""
    try:
        return next((value for _, value in pairs if isinstance(value, ValueError)), unique(pairs))
    except ValueError as error:
        return error


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


def _check_once(path: Path, read: list[str], names: list[str]) -> None:
    """Raise UserError if a column that is read is twice among the columns of the file, `names`."""
    if twice := [column for column in read if names.count(column) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice. Remove one of them")


def _row(
    value: object, number: int, columns: dict[str, str], accept: Accept | None
) -> AnyRow | str:
    """The row that a value holds, or the value's fault."""
    if fault := fault_of_object(value):
        return fault
    column = _conversation_column(value, columns)
    if column is None:
        row = _read_instruction(value, number, columns)
        return row if isinstance(row, str) else _fault_of_size(row) or row
    row = read_conversation(value[column], column, number)
    row = row if isinstance(row, str) else _fault_of_size(row) or row
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
    more = None if INPUT in columns.values() else value.get(INPUT)
    is_blank = more is None or (isinstance(more, str) and not more.strip())
    read = columns if is_blank else columns | {"": INPUT}
    for key, column in read.items():
        if column not in value:
            names = ", ".join(sorted(value)) or "none"
            return f"no column {column!r} (columns: {names}; set data.{key})"
        if fault := fault_of_text(value[column]):
            return f"column {column!r} {fault}"
    instruction, response, *texts = (value[column] for column in read.values())
    return Row("\n\n".join([instruction, *texts]), response, number)


def _fault_of_size(row: AnyRow) -> str | None:
    if len(row.turns) > MOST_TURNS:
        return f"more than {MOST_TURNS:,} turns"
    if sum(len(turn.content) for turn in row.turns) > LONGEST_ROW:
        return f"longer than {LONGEST_ROW:,} characters"
    return None
