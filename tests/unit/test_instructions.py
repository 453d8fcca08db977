"""Instruction rows: read, checked, put into the paper's prompt, tokenised."""

import json

import pytest

from workflow_scripts.data.instructions import Row, read_rows, tokenize_rows
from workflow_scripts.data.prompts import encode_prompt, format_prompt
from workflow_scripts.errors import UserError

ROWS = [
    {"instruction": "Add two numbers.", "response": "def add(a, b):\n    return a + b", "id": 7},
    {"instruction": "Line\u2028separators\x85 and é中🙂", "response": "a\u2029b\r\nc\x0b"},
]
# Written out from the paper's appendix and the published code.
PROMPT = (
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate "
    "and reliable responses to user instructions.\n"
    "\n"
    "@@ Instruction\n"
    "Add two numbers.\n"
    "\n"
    "@@ Response\n"
)


def jsonl(rows, ascii_only=False, end="\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)


def read(tmp_path, content: str | bytes, **options) -> list[Row]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path, "instruction", "response", **options)


def faults(tmp_path, content: str | bytes) -> list[str]:
    """The lines of the message, without the file's path."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    return str(caught.value).replace(f"{tmp_path / 'rows.jsonl'}", "FILE").splitlines()


# Reading


FORMS = {
    "jsonl": jsonl(ROWS),
    "escaped": jsonl(ROWS, ascii_only=True),
    "no last newline": jsonl(ROWS).rstrip("\n"),
    "CRLF": jsonl(ROWS, end="\r\n"),
    "blank lines": jsonl(ROWS, end="\n\n  \n"),
    "BOM": "\ufeff" + jsonl(ROWS),
    "array": json.dumps(ROWS),
    "indented array with BOM": "\ufeff" + json.dumps(ROWS, indent=1, ensure_ascii=False),
    "array after blanks": "\n " + json.dumps(ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_every_form(tmp_path, form):
    numbers = [1, 4] if form == "blank lines" else [1, 2]
    assert read(tmp_path, FORMS[form]) == [
        Row(row["instruction"], row["response"], number)
        for row, number in zip(ROWS, numbers, strict=True)
    ]


def test_other_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl([{"problem": "p", "solution": "s"}]))
    assert read_rows(path, "problem", "solution") == [Row("p", "s", 1)]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (5, 5), (9, 5), (None, 5)])
def test_limit_takes_the_first_rows(tmp_path, limit, count):
    rows = [{"instruction": str(i), "response": str(i)} for i in range(5)]
    expected = [Row(str(i), str(i), i + 1) for i in range(count)]
    assert read(tmp_path, jsonl(rows), limit=limit) == expected


def test_faults_behind_the_limit_do_not_matter(tmp_path):
    assert len(read(tmp_path, jsonl(ROWS) + "broken", limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{", "not valid JSON (Expecting property name"),
        ("3", "not a JSON object"),
        ("null", "not a JSON object"),
        ('["a"]', "not a JSON object"),
        ('{"response": "r"}', "no column 'instruction' (columns: response; set data.instruction_"),
        ('{"b": 1, "a": 1, "instruction": "i"}', "no column 'response' (columns: a, b, instruct"),
        ("{}", "no column 'instruction' (columns: none; set data.instruction_column)"),
        ('{"instruction": "i", "response": ""}', "column 'response' is empty"),
        ('{"instruction": " \\n", "response": "r"}', "column 'instruction' is empty"),
        ('{"instruction": "i", "response": null}', "column 'response' is not a string"),
        ('{"instruction": ["i"], "response": "r"}', "column 'instruction' is not a string"),
        ('{"instruction": "i", "response": "\\ud83d"}', "column 'response' holds half of a surro"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_fault(tmp_path, row, fault):
    content = jsonl(ROWS) + "\n" + row + "\n" + jsonl(ROWS)
    head, line = faults(tmp_path, content)
    assert head == "1 bad rows:"
    assert line.startswith(f"FILE, line 4: {fault}")


def test_a_bad_element_of_an_array_is_named_with_its_number(tmp_path):
    content = json.dumps([*ROWS, 3, {"instruction": "i", "response": ""}])
    assert faults(tmp_path, content) == [
        "2 bad rows:",
        "FILE, row 3: not a JSON object",
        "FILE, row 4: column 'response' is empty",
    ]


def test_only_the_first_faults_are_shown(tmp_path):
    lines = faults(tmp_path, "x\n" * 25)
    assert lines[0] == "25 bad rows:"
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"FILE, line {i}" for i in range(1, 11)]
    assert lines[-1] == "... and 15 more"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "FILE holds no rows"),
        (" \n\n", "FILE holds no rows"),
        ("[]", "FILE holds no rows"),
        ("[1,", "FILE is not valid JSON: Expecting value"),
        (b"\xff\xfe{}", "FILE is not UTF-8 text: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, content, message):
    (line,) = faults(tmp_path, content)
    assert line.startswith(message)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jsonl is missing"):
        read_rows(tmp_path / "nowhere.jsonl", "instruction", "response")


# Prompts and tokens


def test_the_prompt_is_the_papers():
    assert format_prompt("Add two numbers.") == PROMPT


def test_braces_in_an_instruction_are_its_own():
    instruction = "Print {instruction} and {0} and {{}}"
    assert format_prompt(instruction) == PROMPT.replace("Add two numbers.", instruction)


@pytest.mark.parametrize("row", ROWS, ids=["ascii", "unicode"])
def test_a_row_is_prompt_response_eos_and_only_the_prompt_is_masked(tokenizer, row):
    row = Row(row["instruction"], row["response"], 1)
    (example,) = tokenize_rows([row], tokenizer, max_length=1024)
    ids, labels = example["input_ids"], example["labels"]
    trained = [label for label in labels if label != -100]
    prompt = ids[: len(ids) - len(trained)]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert labels == [-100] * len(prompt) + trained
    assert tokenizer.decode(prompt[1:]) == PROMPT.replace("Add two numbers.", row.instruction)
    assert tokenizer.decode(trained[:-1]) == row.response
    assert ids == prompt + trained


def test_training_and_evaluation_have_the_same_prompt_tokens(tokenizer):
    (example,) = tokenize_rows([Row("Add two numbers.", "r", 1)], tokenizer, max_length=1024)
    prompt = encode_prompt(tokenizer, PROMPT)
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"].count(-100) == len(prompt)


def test_a_tokenizer_without_bos_gives_none():
    class Words:
        bos_token_id = None

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            return {"input_ids": [len(word) for word in text.split()]}

    assert encode_prompt(Words(), "a bb") == [1, 2]


def test_long_rows_are_cut_and_rows_without_a_trained_token_dropped(tokenizer):
    row = Row("Add two numbers.", "response " * 9, 1)
    (whole,) = tokenize_rows([row], tokenizer, max_length=1024)
    prompt_length = whole["labels"].count(-100)
    for length in (prompt_length + 1, len(whole["labels"]) - 1, len(whole["labels"])):
        (cut,) = tokenize_rows([row], tokenizer, max_length=length)
        assert cut["input_ids"] == whole["input_ids"][:length]
        assert cut["labels"] == whole["labels"][:length]
    longer = Row("Add two numbers. " * 9, "response", 1)
    assert tokenize_rows([longer, row, longer], tokenizer, prompt_length + 1) == tokenize_rows(
        [row], tokenizer, prompt_length + 1
    )
    with pytest.raises(UserError, match=f"within max_length = {prompt_length} tokens"):
        tokenize_rows([row], tokenizer, max_length=prompt_length)
