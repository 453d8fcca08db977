"""Instruction rows: read from every format, and what is wrong with them."""

import gzip
import json
import os

import datasets
import pandas
import pyarrow
import pytest
from interpreter import python
from pyarrow import parquet

from xft.common.errors import UserError
from xft.data import instructions
from xft.data.instructions import BadRow, Row, check_bad, describe

ROWS = [
    {"instruction": "Add two numbers.", "response": "def add(a, b):\n    return a + b", "id": 7},
    {"instruction": "Line\u2028separators\x85 and é中🙂", "response": "a\u2029b\r\nc\x0b"},
]


def jsonl(rows, end="\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def read_rows(*arguments, **options) -> tuple[list[Row], list[BadRow]]:
    found = list(instructions.read_rows(*arguments, **options))
    bad = [row for row in found if isinstance(row, BadRow)]
    return [row for row in found if row not in bad], bad


def read(tmp_path, content: str | bytes, **options) -> list[Row]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows, bad = read_rows(path, "instruction", "response", **options)
    assert bad == []
    return rows


def refusal(path) -> str:
    """The message that a file as a whole is refused with, without its path."""
    with pytest.raises(UserError) as caught:
        read_rows(path, "instruction", "response")
    return str(caught.value).replace(str(path), "FILE")


# Reading


FORMS = {
    "jsonl": jsonl(ROWS),
    "CRLF": jsonl(ROWS, end="\r\n"),
    "blank lines": jsonl(ROWS, end="\n\n  \n"),
    "BOM": "\ufeff" + jsonl(ROWS),
    "array": json.dumps(ROWS),
    "array after blanks": "\n " + json.dumps(ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_every_form(tmp_path, form):
    numbers = [1, 4] if form == "blank lines" else [1, 2]
    assert read(tmp_path, FORMS[form]) == [
        Row(row["instruction"], row["response"], number)
        for row, number in zip(ROWS, numbers, strict=True)
    ]


def test_a_limit_takes_the_first_rows_and_reads_no_further(tmp_path):
    for limit in (1, 2):
        assert len(read(tmp_path, jsonl(ROWS) + "broken", limit=limit)) == limit
    assert len(read(tmp_path, jsonl(ROWS), limit=9)) == 2


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"a": tru}', "not valid JSON (Expecting value, column 7)"),
        ('{"a": [', "not valid JSON (Expecting value, column 8)"),
        ('{"b": 1, "a": 1, "instruction": "i"}', "no column 'response' (columns: a, b, instruct"),
        ('{"instruction": "i", "response": "r", "response": ""}', "not valid JSON (the key 'resp"),
        ('{"instruction": "i", "response": ""}', "column 'response' is empty"),
        ('{"instruction": "i", "response": null}', "column 'response' is not a string"),
        ('{"instruction": "i", "response": "\\ud83d"}', "column 'response' holds half of a surro"),
        ("[" * 100_000, "not valid JSON (it is nested too deeply)"),
        (f'{{"instruction": "i", "response": "{"r" * 10**6}"}}', "longer than 1,000,000 char"),
        (f'{{"x": "{"r" * 2**26}"}}', "not valid JSON (longer than 64 MiB)"),
        ('{"instruction": "i", "input": [1], "response": "r"}', "column 'input' is not a string"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_fault(tmp_path, row, fault):
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl(ROWS) + "\n" + row + "\n" + jsonl(ROWS))
    _, bad = read_rows(path, "instruction", "response")
    assert describe(bad).startswith(f"1 bad row:\n{path}, line 4: {fault}")


def test_a_key_that_appears_twice_is_a_fault_of_its_row_in_an_array_too(tmp_path):
    path = tmp_path / "rows.json"
    turn = '{"role": "user", "role": "a"}'
    rows = ['{"instruction": "i", "response": "r"}', '{"response": 1, "response": 2}']
    rows += [f'{{"messages": [{turn}]}}', f'{{"instruction": "i", "x": {turn}, "response": "r"}}']
    path.write_text(f"[{', '.join(rows)}]")
    good, bad = read_rows(path, "instruction", "response")
    assert good == [Row("i", "r", 1)]
    assert describe(bad).replace(str(path), "FILE").splitlines()[1:] == [
        "FILE, row 2: not valid JSON (the key 'response' appears twice)",
        "FILE, row 3: column 'messages': turn 1 is not valid JSON (the key 'role' appears twice)",
        "FILE, row 4: not valid JSON (the key 'role' appears twice)",
    ]


def test_the_input_of_alpaca_follows_the_instruction(tmp_path):
    row = {"instruction": "i", "response": "r"}
    inputs = ["x\n y ", " ", None]
    expected = ["i\n\nx\n y ", "i", "i", "i"]
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl([*(row | {"input": text} for text in inputs), row]))
    rows, bad = read_rows(path, "instruction", "response")
    assert ([one.instruction for one in rows], bad) == (expected, [])
    path.write_text(jsonl([row | {"input": "x"}]))
    assert read_rows(path, "input", "response") == ([Row("x", "r", 1)], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "FILE holds no rows"),
        ("[1,", "FILE is not valid JSON: Expecting value"),
        (b"\xff\xfe{}", "FILE is not UTF-8 text: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(path).startswith(message)


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet") == "FILE is a pipe or a device, not a file"


def test_packed_rows_are_read_as_unpacked_ones(tmp_path):
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(FORMS["array"].encode()))
    assert read_rows(path, "instruction", "response") == (read(tmp_path, jsonl(ROWS)), [])


def test_a_format_that_is_not_read_is_named_with_those_that_are(tmp_path):
    assert "Parquet (.parquet), not from .TSV.gz." in refusal(tmp_path / "rows.TSV.gz")


READING = """
import pathlib, sys
from xft.common import files
from xft.data.instructions import read_rows
files.MAX_BYTES = 2**26
try:
    list(read_rows(pathlib.Path(sys.argv[1]), "instruction", "response"))
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


# CSV


@pytest.mark.parametrize("name", ["rows.csv", "rows.CSV.gz"])
def test_csv_gives_the_rows_that_jsonl_gives(tmp_path, name):
    """Written by pandas, with its index as a column without a name."""
    texts = [*ROWS, {"instruction": '"NA", \'\n\n', "response": "NA"}]
    content = "\ufeff" + pandas.DataFrame(texts).to_csv(lineterminator="\r\n")
    packed = gzip.compress(content.encode()) if name.endswith("gz") else content.encode()
    (tmp_path / name).write_bytes(packed)
    rows, bad = read_rows(tmp_path / name, "instruction", "response")
    assert (rows, bad) == (read(tmp_path, jsonl(texts)), [])


HEAD = "instruction,response"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "FILE holds no rows"),
        ("a;b\n1;2", "FILE has no column 'instruction' and no column 'response'; its columns"),
        (f"{HEAD},response\na,b,c", "FILE has the column 'response' twice"),
        (f"{HEAD}\na,b\nc,d,e", "FILE is not valid CSV: line 3: it has more values"),
        (f'{HEAD}\na,"b\n', "FILE is not valid CSV: line 2: unexpected end of data"),
        (f"{HEAD}\na,\xe9\n", "FILE is not UTF-8 text: 'utf-8' codec can't decode byte 0xe9"),
        (f"{HEAD}\na,b\nc", "1 bad row:\nFILE, row 2: column 'response' is not a string"),
        (f"{HEAD}\na,{'b' * 2**26}\n", "FILE, line 2: longer than 64 MiB"),
    ],
)
def test_what_is_wrong_with_csv_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        check_bad(*reversed(read_rows(path, "instruction", "response")), policy="stop")
    assert str(caught.value).replace(str(path), "FILE").startswith(message)


# Many rows

STREAMING = """
import pathlib, resource, sys
from xft.config.sections import TokensConfig
from xft.data.duplicates import find_exact
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


# Parquet


@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_parquet_gives_the_rows_that_jsonl_gives(tmp_path, name):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / name)
    rows, bad = read_rows(tmp_path / name, "instruction", "response")
    assert (rows, bad) == (read(tmp_path, jsonl(ROWS)), [])


def test_bad_rows_of_parquet_are_named_with_their_number(tmp_path):
    path = tmp_path / "rows.parquet"
    responses = ["r", None, " ", "s"]
    rows = [{"instruction": "i", "response": response} for response in responses]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    good, bad = read_rows(path, "instruction", "response")
    assert [row.number for row in good] == [1, 4]
    assert describe(bad).replace(str(path), "FILE").splitlines()[1:] == [
        "FILE, row 2: column 'response' is not a string",
        "FILE, row 3: column 'response' is empty",
    ]


def test_columns_that_no_row_has_are_told_once(tmp_path):
    rows = [{"prompt": "i", "completion": "o"}] * 9
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    for path in tmp_path.iterdir():
        assert refusal(path) == (
            "FILE has no column 'instruction' and no column 'response'; its columns are prompt, "
            "completion: set data.instruction_column and data.response_column"
        )


def test_a_column_that_is_twice_in_parquet_is_refused(tmp_path):
    columns = [pyarrow.array([text]) for text in "irs"]
    table = pyarrow.Table.from_arrays(columns, names=["instruction", "response", "response"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert refusal(tmp_path / "rows.parquet").startswith("FILE has the column 'response' twice")


def test_a_damaged_or_foreign_parquet_file_is_one_message(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"instruction": f"i{i}", "response": f"r{i}" * 40} for i in range(500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    content = path.read_bytes()
    for damaged in (content[:40] + bytes(200) + content[240:], jsonl(ROWS).encode()):
        path.write_bytes(damaged)
        assert refusal(path).startswith("FILE is not a whole Parquet file: ")
