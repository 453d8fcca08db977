"""Reads JSONL, JSON, CSV and Parquet files of rows into one sequence, which is on the disk.

A file may exceed the memory.
"""

import csv
import json
import os
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import numpy as np

from xft.common.errors import UserError
from xft.common.file_access import check_size, open_unpacked, read_lines, read_text
from xft.common.json_files import MAX_LINE, parse_json, read_json_lines, text_of_line, unique
from xft.common.progress import progress
from xft.config.sections import TokensConfig
from xft.data import instruction_rows
from xft.data.instruction_rows import FORMS, INPUT, Accept, AnyRow, BadRow, Conversation, Row

LONGEST_FAULT = 300  # characters: a fault may quote the row
LARGEST_ARRAY = 2**30  # bytes of a JSON array, which is read whole
VALUE_BYTES = 100  # of memory that a value of a Parquet file takes beside its text
PARQUET_MAGIC = b"PAR1"
HEAD = 4096  # bytes that show a file's format
CSV = re.compile(r"\.csv(\.gz)?$", re.I)  # the names of files whose content is read as CSV
JSON = re.compile(r"\.(jsonl?|ndjson)(\.gz)?$", re.I)
SEPARATED = "{} has {!r} between its columns. Write it with commas: docs/data.md says how"
NOT_READ = re.compile(r"\.(tsv|xlsx?|arrow|feather|zip|zst|bz2|xz|parquet\.gz)(\.gz)?$", re.I)
BLOCK = 2**21  # values that are read at a time
FILE_ROWS = 2**32  # a file of `MAX_BYTES` holds fewer rows


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
    good = 0
    bad = 0
    seen = {}  # the names of columns, in the order of their appearance
    columns = {key: getattr(options, key) for key in ("instruction_column", "response_column")}
    unit, values = _values(path, columns)
    for number, value in values:
        if good == limit:
            break
        if isinstance(value, dict):
            seen |= dict.fromkeys(value)
        row = instruction_rows.read_row(value, before + number, columns, accept)
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


def check_format(name: str) -> None:
    """Raise UserError if a file's name ends as one of a format that is not read."""
    if ending := NOT_READ.search(name):
        raise UserError(
            f"{name}: rows are read from JSON Lines (.jsonl), a JSON array (.json) or CSV (.csv), "
            f"each also as .gz, and from Parquet (.parquet), not from {ending[0]}. docs/data.md "
            "says how to convert other formats"
        )


def _values(path: Path, columns: dict[str, str]) -> tuple[str, Iterator[tuple[int, object]]]:
    """The word for a place, "line" or "row", and the number and the value of each.

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
        maps = [column for column in read if "map<" in str(schema.field(column).type)]
        if maps:
            raise UserError(
                f"{path} has maps in the column {maps[0]!r}, which are not read. Write objects "
                "(structs) in their place, or JSON Lines"
            )
        chunks = [chunk for chunk in _chunks(metadata) if _is_of(chunk, read)]
        sizes = [chunk.total_uncompressed_size + VALUE_BYTES * chunk.num_values for chunk in chunks]
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


def _chunks(metadata) -> Iterator:
    """The metadata of each column in each group of rows of a Parquet file."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            yield group.column(place)


def _is_of(chunk, columns: list[str]) -> bool:
    """Whether values of a Parquet file belong to one of these columns, at any depth."""
    return any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns)


def _csv_values(path: Path, columns: dict[str, str]) -> Iterator[dict]:
    """The rows. The first line that is not blank names the columns. All values are texts."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        names = _column_names(reader)
        if len(names) == 1:
            mark = re.search("[;\t|]", names[0])
            if mark:
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


def _column_names(reader: csv.DictReader) -> list[str]:
    """The values of the first line that is not blank. Empty if there is no such line."""
    names = reader.fieldnames
    while names is not None and not "".join(names).strip():
        reader.fieldnames = None  # the next line is then read as names
        names = reader.fieldnames
    return names or []


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file. Raises UserError if one is too long."""
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
        parsed = unique(pairs)
    except ValueError as error:
        return error
    for value in parsed.values():
        if isinstance(value, ValueError):
            return value
    return parsed


def _check_columns(path: Path, columns: dict[str, str], names: list[str]) -> None:
    """Raise UserError unless the file has these columns, or a column of conversations.

    names: the columns of the file.
    """
    missing = {key: column for key, column in columns.items() if column not in names}
    if missing and not FORMS.keys() & set(names):
        lacks = " and ".join(f"no column {column!r}" for column in missing.values())
        keys = " and ".join(f"data.{key}" for key in missing)
        raise UserError(f"{path} has {lacks}; its columns are {', '.join(names)}: set {keys}")


def _check_once(path: Path, read: list[str], names: list[str]) -> None:
    """Raise UserError if a column that is read is twice among the columns of the file, `names`."""
    twice = [column for column in read if names.count(column) > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]!r} twice. Remove one of them")


class DiskArray:
    """A one-dimensional array in a temporary file. A slice of it is a numpy array.

    Parts are appended to it. A part takes eight bytes of memory.

    offsets: part i is [offsets[i] : offsets[i + 1]].
    """

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.offsets = array("q", [0])
        self._file = TemporaryFile()  # noqa: SIM115 (it lasts as long as the array)

    def append(self, part: np.ndarray) -> None:
        """Append a part. Raises OSError if the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(part, self.dtype).data)
        except OSError as error:
            error.filename = f"{gettempdir()}; the variable TMPDIR names another folder"
            raise
        self.offsets.append(len(self) + len(part))

    def part(self, place: int) -> np.ndarray:
        return self[self.offsets[place] : self.offsets[place + 1]]

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, places: slice) -> np.ndarray:
        begin, end, _ = places.indices(len(self))
        self._file.flush()
        values = np.empty(max(end - begin, 0), self.dtype)
        if len(values):
            os.preadv(self._file.fileno(), [values.data], begin * self.dtype.itemsize)
        return values


def blocks(values: np.ndarray | DiskArray) -> Iterator[np.ndarray]:
    """The values of an array, in order, as arrays that take little memory."""
    return (values[begin : begin + BLOCK] for begin in range(0, len(values), BLOCK))


class StoredRows(Sequence):
    """Rows in a temporary file. Each is read when it is asked for."""

    def __init__(self):
        self._texts = DiskArray(np.uint8)
        self._places = array("q")
        self.numbers = array("q")

    def append(self, row: AnyRow) -> None:
        turns = [(turn.role, turn.content) for turn in row.turns]
        text = json.dumps([isinstance(row, Row), turns])
        self._places.append(len(self._places))
        self._texts.append(np.frombuffer(text.encode(), np.uint8))
        self.numbers.append(row.number)

    def select(self, keep: Callable[[int], bool]) -> "StoredRows":
        """The rows whose numbers are to be kept, in the same file."""
        kept = [place for place, number in enumerate(self.numbers) if keep(number)]
        selected = copy(self)
        selected._places = array("q", [self._places[place] for place in kept])
        selected.numbers = array("q", [self.numbers[place] for place in kept])
        return selected

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> AnyRow:
        number = self.numbers[place]
        is_row, turns = json.loads(self._texts.part(self._places[place]).tobytes())
        if is_row:
            instruction, response = (content for _, content in turns)
            return Row(instruction, response, number)
        turns = tuple(instruction_rows.Turn(role, content) for role, content in turns)
        return Conversation(turns, number)


def read_files(
    files: Sequence[Path], options: TokensConfig, accept: Accept | None = None
) -> tuple[StoredRows, list[BadRow]]:
    """The rows of several files, one after the other, each as `read_rows` reads it.

    The rows of file i (from 0) have numbers that begin after i * FILE_ROWS. Raises UserError also
    if `options.limit` is a list of another length.
    """
    limits = options.limits(len(files))
    rows = StoredRows()
    bad = []
    for place, (file, limit) in enumerate(zip(files, limits, strict=True)):
        of_file = read_rows(file, options, limit, accept, place * FILE_ROWS)
        for row in progress(of_file, desc=f"read {file}", unit="row"):
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                rows.append(row)
    return rows, bad


def named(files: Sequence[Path]) -> str:
    """The names of files, for messages."""
    return ", ".join(map(str, files))


def place_of(number: int, files: Sequence[Path]) -> int | str:
    """The number of a row in its file, with the name of the file if there are several."""
    place, row = divmod(number, FILE_ROWS)
    return row if len(files) == 1 else f"{files[place]}: {row}"
