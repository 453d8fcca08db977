"""Decontamination: what gives a problem away, and what does not."""

import gzip
import json
from pathlib import Path

import pytest
from problem_files import three_problems

from xft.common.errors import UserError
from xft.data.contamination import NGRAM, SHORTEST, Detector, Reference
from xft.data.instructions import read_rows
from xft.evaluation.references import load_references

DOCSTRING = "Return the sum of the two largest of three numbers.\n    >>> f(1, 2, 3)\n    5"
SOLUTION = "    largest = sorted((a, b, c))[1:]\n    return sum(largest)\n"
DETECTOR = Detector([Reference("T/0", {"docstring": DOCSTRING, "solution": SOLUTION})])
REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f"Do it:\n{DOCSTRING}", "docstring"),
        (DOCSTRING.replace("\n    ", " "), "docstring"),
        (f"def g(a, b, c):\n\t{SOLUTION.strip()}", "solution"),
        (SOLUTION.replace("\n", "\r\n\r\n"), "solution"),
    ],
)
def test_a_whole_docstring_or_solution_is_found_whatever_the_whitespace(text, match):
    trace = DETECTOR.find(text)
    assert (trace.problem, trace.match) == ("T/0", match)


@pytest.mark.parametrize(
    "text",
    [
        "Return the sum of the two smallest of three numbers. >>> f(1, 2, 3) 3",
        SOLUTION.replace("[1:]", "[:2]"),
        "sum, the two largest: " + " ".join(reversed(DOCSTRING.split())),
    ],
)
def test_something_else_is_not_found(text):
    assert DETECTOR.find(text) is None


WORDS = [f"Word{i}" for i in range(40)]
WORDY = Detector([Reference("T/1", {"solution": " ".join(WORDS)})])


@pytest.mark.parametrize("count", [NGRAM - 1, NGRAM, NGRAM + 5])
def test_thirteen_words_in_a_row_are_found(count):
    text = f"before {' ( '.join(WORDS[7 : 7 + count]).lower()}, after"
    trace = WORDY.find(text)
    assert (trace is not None) == (count >= NGRAM)
    if trace:
        assert (trace.problem, trace.match) == ("T/1", "13 words of its solution")
        assert trace.text == " ".join(WORDS[7 : 7 + NGRAM])


@pytest.mark.parametrize("length", [SHORTEST - 1, SHORTEST])
def test_short_texts_are_no_trace(length):
    text = "return a + " + "b" * (length - 15) + " + c"
    assert len(text) == length
    found = Detector([Reference("T/2", {"solution": text})]).find(f"def f():\n  {text}\n")
    assert (found is not None) == (length >= SHORTEST)


# Problems


def write(path: Path, problems: list[dict]) -> str:
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return str(path)


def problem(**fields) -> dict:
    return three_problems()[0] | fields


@pytest.mark.parametrize(
    ("prompt", "docstring"),
    [
        ('def f(x):\n    """What f does."""\n', "What f does."),
        ("def f(x):\n    r'''What\n    f does.'''\n", "What\n    f does."),
        ('import os\n\ndef g():\n    """Help."""\n    return 1\n\ndef f(x):\n    "F."\n', "F."),
        ("def f(x):\n", "def f(x):\n"),
    ],
    ids=["plain", "raw", "helper", "bare"],
)
def test_the_docstring_of_the_function_to_be_written(tmp_path, prompt, docstring):
    name = write(tmp_path / "p.jsonl", [problem(prompt=prompt, entry_point="f")])
    (reference,), hashes = load_references([name])
    assert reference.texts["docstring"] == docstring
    assert reference.texts["solution"] == three_problems()[0]["canonical_solution"]
    assert list(hashes) == ["p"]


def test_the_request_of_an_mbpp_problem(tmp_path):
    prompt = '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n'
    solution = {"canonical_solution": "def add(a, b): return a + b", "entry_point": "add"}
    name = write(tmp_path / "p.jsonl", [problem(task_id="Mbpp/7", prompt=prompt, **solution)])
    (reference,), _ = load_references([name])
    assert reference.texts["docstring"] == "Write a function to add"


def test_a_set_that_is_not_here_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_references(["humaneval"])
    assert "data set humaneval (HumanEval+ v0.1.10) is not on this machine" in str(caught.value)
    assert "set data.decontaminate_against" in str(caught.value)


# The real sets


@pytest.fixture(scope="module")
def real():
    """The references of HumanEval+ and MBPP+, and what finds them."""
    if not SHARED.is_dir():
        pytest.skip("no copies of HumanEval+ and MBPP+ beside this repository")
    files = [str(SHARED / name) for name in ("HumanEvalPlus.jsonl.gz", "MbppPlus.jsonl.gz")]
    references, _ = load_references(files)
    return references, Detector(references)


def test_every_problem_gives_itself_away(real):
    references, detector = real
    assert len(references) == 164 + 378
    lines = gzip.decompress((SHARED / "HumanEvalPlus.jsonl.gz").read_bytes()).splitlines()
    for row in map(json.loads, lines):
        assert detector.find(f"Please write this:\n{row['prompt']}") is not None
        indented = f"class A:\n    {row['prompt'] + row['canonical_solution']}"
        assert detector.find(indented.replace("\n", "\n    ")) is not None


def test_few_rows_of_other_data_are_found_and_those_with_reason(real, tmp_path):
    """Tests for primes (Mbpp/605) and counts of inversions (Mbpp/296)."""
    file = SHARED / "evol-codealpaca-2k-1.json"
    joined = [
        row | {"instruction": f"{row['instruction']}\n{row.pop('input', '')}"}
        for row in json.loads(file.read_text())
    ]
    (tmp_path / "rows.json").write_text(json.dumps(joined))
    good, _ = read_rows(tmp_path / "rows.json", "instruction", "output")
    traces = [trace for row in good if (trace := real[1].find(row.text))]
    assert (len(good), len(traces)) == (1966, 11)
    assert {trace.problem for trace in traces} == {"Mbpp/605", "Mbpp/296"}
