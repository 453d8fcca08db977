"""Instruction rows: read from every format, and what is wrong with them."""

import gzip
import io
import json
import os
from pathlib import Path

import datasets
import pandas
import pyarrow
import pytest
from interpreter import python
from pyarrow import parquet

from xft.common.errors import UserError
from xft.config.sections import TokensConfig
from xft.data import row_files
from xft.data.instruction_rows import BadRow, Row, check_bad, describe

ROWS = [
    {"instruction": "Add two numbers.", "response": "def add(a, b):\n    return a + b", "id": 7},
    {"instruction": "Line\u2028separators\x85 and é中🙂", "response": "a\u2029b\r\nc\x0b"},
    {"instruction": '"NA", \'\n\n', "response": "NA"},
]


def jsonl(rows, end="\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_rows(path, limit=None, **columns) -> tuple[list[Row], list[BadRow]]:
    found = list(row_files.read_rows(path, TokensConfig(**columns), limit, accept=None))
    bad = [row for row in found if isinstance(row, BadRow)]
    return [row for row in found if row not in bad], bad


def refusal(path) -> str:
    """The message that a file is refused with, for a bad row too, without its path."""
    with pytest.raises(UserError) as caught:
        check_bad(*reversed(read_rows(path)), policy="stop")
    return str(caught.value).replace(str(path), "FILE")


# Reading


CSV = pandas.DataFrame(ROWS).to_csv(lineterminator="\r\n")  # its index has no name
PARQUET = io.BytesIO()
datasets.Dataset.from_list(ROWS).to_parquet(PARQUET)
FORMS = {
    "jsonl": ("rows.jsonl", jsonl(ROWS)),
    "CRLF": ("rows.jsonl", jsonl(ROWS, end="\r\n")),
    "blank lines": ("rows.jsonl", jsonl(ROWS, end="\n\n  \n")),
    "BOM": ("rows.jsonl", "\ufeff" + jsonl(ROWS)),
    "array": ("rows.jsonl", json.dumps(ROWS)),
    "array after blanks": ("rows.jsonl", "\n " + json.dumps(ROWS)),
    "packed array": ("rows.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    "CSV": ("rows.csv", "\ufeff" + CSV),
    "packed CSV": ("rows.csv.GZ", gzip.compress(CSV.encode())),
    "CSV after blank lines": ("rows.csv", f"\ufeff\n  \n,,\r\n{CSV}"),
    "Parquet": ("rows.parquet", PARQUET.getvalue()),
    "Parquet without a suffix": ("rows", PARQUET.getvalue()),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_every_form(tmp_path, form):
    name, content = FORMS[form]
    numbers = [1, 4, 7] if form == "blank lines" else [1, 2, 3]
    rows, bad = read_rows(write(tmp_path / name, content))
    expected = [(row["instruction"], row["response"]) for row in ROWS]
    assert rows == [Row(*own, number) for own, number in zip(expected, numbers, strict=True)]
    assert bad == []


def test_a_limit_takes_the_first_rows_and_reads_no_further(tmp_path):
    path = write(tmp_path / "rows.jsonl", "bad\n" + jsonl(ROWS) + "broken")
    for limit in (1, 2, 3):
        rows, bad = read_rows(path, limit)
        assert ([row.number for row in rows], len(bad)) == ([2, 3, 4][:limit], 1)


def test_a_bad_row_is_named_with_its_line_and_fault(tmp_path):
    for row, fault in (
        ('{"a": tru}', "not valid JSON (Expecting value, column 7)"),
        (
            '{"instruction": "i", "b": 1}',
            "no column 'response' (columns: b, instruction; set data.re",
        ),
        ('{"instruction": "i", "response": "r", "response": ""}', "not valid JSON (the key 'resp"),
        ('{"instruction": "i", "response": ""}', "column 'response' is empty"),
        ('{"instruction": "i", "response": null}', "column 'response' is not a string"),
        ('{"instruction": "i", "response": "\\ud83d"}', "column 'response' holds half of a surro"),
        ("[" * 100_000, "not valid JSON (it is nested too deeply)"),
        (f'{{"instruction": "i", "response": "{"r" * 10**6}"}}', "longer than 1,000,000 char"),
        (f'{{"x": "{"r" * 2**26}"}}', "not valid JSON (longer than 64 MiB)"),
        ('{"instruction": "i", "input": 0, "response": "r"}', "column 'input' is not a string"),
    ):
        path = write(tmp_path / "rows.jsonl", jsonl(ROWS) + "\n" + row + "\n" + jsonl(ROWS))
        told = refusal(path)
        assert told.startswith(f"1 bad row:\nFILE, line 5: {fault}")
        assert told.endswith("\nCorrect them, or leave them out: data.bad_rows: skip")


def test_a_key_that_appears_twice_is_a_fault_of_its_row_in_an_array_too(tmp_path):
    path = tmp_path / "rows.json"
    turn = '{"role": "user", "role": "a"}'
    rows = ['{"instruction": "i", "response": "r"}', '{"response": 1, "response": 2}']
    rows += [f'{{"messages": [{turn}]}}', f'{{"instruction": "i", "x": {turn}, "response": "r"}}']
    path.write_text(f"[{', '.join(rows + rows[-1:] * 9)}]")
    good, bad = read_rows(path)
    assert describe(bad).startswith("12 bad rows:")
    assert good == [Row("i", "r", 1)]
    assert describe(bad).replace(str(path), "FILE").splitlines()[1:] == [
        "FILE, row 2: not valid JSON (the key 'response' appears twice)",
        "FILE, row 3: column 'messages': turn 1 is not valid JSON (the key 'role' appears twice)",
        "FILE, row 4, and 9 more: not valid JSON (the key 'role' appears twice)",
    ]


def test_the_input_of_alpaca_follows_the_instruction(tmp_path):
    row = {"instruction": "i", "response": "r"}
    inputs = ["x\n y ", " ", None]
    expected = ["i\n\nx\n y ", "i", "i", "i"]
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl([*(row | {"input": text} for text in inputs), row]))
    rows, bad = read_rows(path)
    assert ([one.instruction for one in rows], bad) == (expected, [])
    path.write_text(jsonl([row | {"input": "x"}]))
    assert read_rows(path, instruction_column="input") == ([Row("x", "r", 1)], [])


@pytest.mark.timeout(60)
def test_what_is_no_file_or_of_another_format_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == "FILE is a pipe or a device, not a file"
    assert "Parquet (.parquet), not from .TSV.gz." in refusal(tmp_path / "rows.TSV.gz")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv.gz"])
def test_blank_lines_without_end_are_refused_before_all_are_read(tmp_path, monkeypatch, name):
    """The end of the file is cut off, which would be told if it were read."""
    path = write(tmp_path / name, gzip.compress(b"\n" * 3 * 10**6)[:-9])
    assert "FILE holds more than 1,000,000 blank lines in succession" in refusal(path)
    monkeypatch.setattr("xft.common.file_access.MOST_BLANK", 2)
    path = write(tmp_path / "rows.jsonl", jsonl(ROWS, end="\n" * 3))
    assert len(read_rows(path)[0]) == 3


READING = """
import pathlib, sys
from xft.common import file_access as files
from xft.config.sections import TokensConfig
from xft.data.row_files import read_files
files.MAX_BYTES = 2**26
try:
    read_files([pathlib.Path(sys.argv[1])], TokensConfig())
except files.UserError as error:
    print(error)
print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
LONG = pyarrow.DictionaryArray.from_arrays([0] * 10_000, ["r" * 10**5])
TURNS = pyarrow.StructArray.from_arrays([LONG, LONG], ["role", "content"])
BOMBS = {
    "texts": pyarrow.table({"instruction": LONG, "response": LONG}),
    "turns": pyarrow.table({"messages": pyarrow.ListArray.from_arrays([0, 10_000], TURNS)}),
    "elements": pyarrow.table({"messages": [[None] * 10**6]}),
}


@pytest.mark.parametrize("bomb", ["lines", *BOMBS])
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, bomb):
    """With a bound of 64 MiB, by a process that takes 300 MiB at most."""
    path = tmp_path / ("rows.jsonl.gz" if bomb == "lines" else "rows.parquet")
    if bomb == "lines":
        path.write_bytes(gzip.compress(bytes(2**26 + 1)))
    else:
        parquet.write_table(BOMBS[bomb], path, store_schema=False)
    assert path.stat().st_size < 2**20
    message, peak = python("-c", READING, path).stdout.splitlines()
    assert message == f"{path} holds more than 64 MiB, too much to read"
    assert int(peak) < 300 * 2**10


# Many rows

STREAMING = """
import pathlib, resource, sys
from xft.config.sections import TokensConfig
from xft.data.unwanted_rows import find_exact
from xft.data.row_files import read_files
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
rows, bad = read_files([pathlib.Path(sys.argv[1])], TokensConfig())
even = rows.select(lambda number: number % 2 == 0)
print(len(bad), len(rows), find_exact(rows), len(even), even[1].number, even[1].instruction)
print(peak() - before)
"""


def test_many_rows_take_little_memory(tmp_path):
    """64 MB of texts. The last row is the first one again."""
    path, count = tmp_path / "rows.jsonl", 32_000
    with path.open("w") as file:
        for number in [*range(1, count), 1]:
            row = {"instruction": f"Task {number}.", "response": "x" * 2_000}
            file.write(json.dumps(row) + "\n")
    found, memory = python("-c", STREAMING, path).stdout.splitlines()
    assert found == f"0 {count} {{{count}: 1}} {count // 2} 4 Task 4."
    assert int(memory) < 16 * 2**10


# What is wrong with a file


def table(columns: list[str], *rows: tuple) -> bytes:
    """A Parquet file, which may have a column twice."""
    content = io.BytesIO()
    values = map(pyarrow.array, zip(*rows, strict=True))
    parquet.write_table(pyarrow.Table.from_arrays([*values], names=columns), content)
    return content.getvalue()


COLUMNS = ["instruction", "response"]
HEAD = ",".join(COLUMNS)
DAMAGED = table(COLUMNS, *((f"i{i}", f"r{i}" * 40) for i in range(500)))
DAMAGED = DAMAGED[:40] + bytes(200) + DAMAGED[240:]
OTHERS = ["prompt", "completion"]
NEITHER = "FILE has no column 'instruction' and no column 'response'; its columns are prompt, "
NEITHER += "completion: set data.instruction_column and data.response_column"
MAPS = pyarrow.map_(pyarrow.string(), pyarrow.string())
AS_MAPS = table(["messages"], (pyarrow.scalar([[("role", "user")]], pyarrow.list_(MAPS)),))
BAD_TABLE = table(COLUMNS, ("i", "r"), ("i", None), ("i", " "), ("i", "s"))
BAD_ROWS = "FILE, row 2: column 'response' is not a string\nFILE, row 3: column 'response' is empty"


def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path):
    for name, content, message in (
        ("rows.jsonl", "", "FILE holds no rows"),
        ("rows.jsonl", "[1,", "FILE is not valid JSON: Expecting value"),
        ("rows.jsonl", b"\xff\xfe{}", "FILE is not UTF-8 text: 'utf-8' codec can't decode byte 0"),
        ("rows.jsonl", jsonl([{"prompt": "i", "completion": "o"}] * 9), NEITHER),
        ("rows.csv", "", "FILE holds no rows"),
        ("rows.csv", "prompt,completion\n1,2", NEITHER),
        ("rows.csv", HEAD.replace(",", ";"), "FILE has ';' between its columns. Write it with"),
        ("rows.csv", f"{HEAD},response\na,b,c", "FILE has the column 'response' twice"),
        ("rows.csv", f"{HEAD}\na,b\nc,d,e", "FILE is not valid CSV: line 3: it has more values"),
        ("rows.csv", f'{HEAD}\na,"b\n', "FILE is not valid CSV: line 2: unexpected end of data"),
        ("rows.csv", f"{HEAD}\na,".encode() + b"\xe9\n", "FILE is not UTF-8 text: 'utf-8' codec"),
        ("rows.csv", f"{HEAD}\na,b\nc", "1 bad row:\nFILE, row 2: column 'response' is not a str"),
        ("rows.csv", f"{HEAD}\na,{'b' * 2**26}\n", "FILE, line 2: longer than 64 MiB"),
        ("rows.parquet", table(OTHERS, *[("i", "o")] * 9), NEITHER),
        ("rows.parquet", table([*COLUMNS, "response"], "irs"), "FILE has the column 'response' tw"),
        ("rows.parquet", BAD_TABLE, f"2 bad rows:\n{BAD_ROWS}"),
        ("rows.parquet", AS_MAPS, "FILE has maps in the column 'messages'"),
        ("rows.txt", f"{HEAD}\na,b", "FILE does not begin as JSON. If it is CSV, let its name en"),
        ("rows.parquet", DAMAGED, "FILE is not a whole Parquet file: "),
    ):
        assert refusal(write(tmp_path / name, content)).startswith(message)
