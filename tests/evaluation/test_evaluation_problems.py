"""Sets of problems: where they are found, and what is said about a broken file."""

import codecs
import gzip
import hashlib
from dataclasses import replace
from functools import partial

import pytest
from problem_files import problem, three_problems, write_problems

from xft.common.errors import UserError
from xft.evaluation.forms import CALLS, load_problems
from xft.hub import named_sets
from xft.hub.named_sets import NAMED_SETS

zipped = partial(gzip.compress, mtime=0)  # without the time, tests have the same names everywhere


def test_a_set_has_the_rows_of_its_file_plain_or_compressed(tmp_path):
    plain = write_problems(tmp_path / "sums.jsonl", three_problems())
    packed, marked = tmp_path / "sums.jsonl.gz", tmp_path / "marked.jsonl"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    marked.write_bytes(codecs.BOM_UTF8 + plain.read_bytes())
    found = load_problems(str(plain))
    assert (found.name, found.form) == ("sums", CALLS)
    assert found.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert [p.model_dump() for p in found.problems] == three_problems()
    assert load_problems(str(packed)) == replace(found, file=packed)
    assert load_problems(str(marked)).problems == found.problems
    assert found.first(2) == replace(found, problems=found.problems[:2])
    assert found.first(None) == found


def test_a_named_set_comes_from_evalplus_s_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("MBPP_OVERRIDE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "evalplus" / "MbppPlus-v0.2.0.jsonl"
    file.parent.mkdir()
    write_problems(file, [problem("add", "+", "Mbpp/7")])
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(NAMED_SETS, "mbpp", replace(NAMED_SETS["mbpp"], sha256=sha256))
    found = load_problems("mbpp")
    assert (found.name, found.file) == ("mbpp", file)
    file.write_text(file.read_text() + "\n")  # not the release
    with pytest.raises(UserError, match=r"--dataset mbpp --out mbpp.jsonl .* set MBPP_OVERRIDE_PA"):
        load_problems("mbpp")


GONE = object()
TEXTS = ("task_id", "prompt", "entry_point", "canonical_solution", "contract")
BAD = [  # the number of a row, what is changed in it, and the message
    (1, {"base_input": [[1, 2], {"a": 1}]}, "line 1: base_input.1: .*, each the list of the fun"),
    (2, {"task_id": "Arithmetic/0"}, "more than once: Arithmetic/0"),
    (2, {"base_input": [], "plus_input": {}}, "line 2: .* hold no call"),
    (3, {"entry_point": "f"}, "line 3: .* define no f, .* entry_point"),
    (1, {"canonical_solution": "    def inner(): 0", "entry_point": "inner"}, "define no inner"),
    (2, {"canonical_solution": "  return (a\n"}, r"not valid Python: .* \(line 3 of the program\)"),
    *[(3, {"atol": atol}, "line 3: atol: ") for atol in (float("inf"), float("nan"), -1e-9)],
    *[(2, {key: "\ud800"}, f"line 2: {key} holds half of a surrogate") for key in TEXTS],
    (2, {"prompt": "\0"}, "line 2: prompt and canonical_solution are not valid"),
    (2, {"base_input": GONE, "test": "def check(f): 0"}, "HumanEval's original form.* into tests"),
    (
        *(2, {"base_input": GONE, "test": "f()", "task_id": "JavaScript/0"}),
        '-X\'s. Write test .* "js" into .* data set multipl-e/humaneval-js$',
    ),
]


@pytest.mark.parametrize(("number", "changes", "message"), BAD)
def test_bad_rows_are_named(tmp_path, number, changes, message):
    rows = three_problems()
    row = rows[number - 1] | changes
    rows[number - 1] = {key: value for key, value in row.items() if value is not GONE}
    with pytest.raises(UserError, match=rf"sums\.jsonl.*{message}"):
        load_problems(str(write_problems(tmp_path / "sums.jsonl", rows)))


DEFINITIONS = (
    *("async def add(a, b): 0", "class add: 0", "add = int.__add__", "add: object = int.__add__"),
    *("from operator import add", "from operator import *", "import operator as add"),
    *("if True:\n    def add(): 0", "try:\n    import add\nexcept ImportError:\n    add = None"),
    *("other, add = 1, 2", "(add := 1)"),
    "for add in (1, 2): '\\d'",  # with a warning about the escape, which nobody is to see
)


@pytest.mark.filterwarnings("error")
def test_an_entry_point_may_be_defined_in_any_way(tmp_path):
    row = problem("add", "+", "Own/1") | {"prompt": ""}
    cases = enumerate(DEFINITIONS)
    rows = [row | {"task_id": f"Own/{n}", "canonical_solution": code} for n, code in cases]
    assert load_problems(str(write_problems(tmp_path / "own.jsonl", rows))).problems


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    for name, content, message in (
        ("a.jsonl", b'{"task_id": \n', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b"\n", r"a\.jsonl holds no problem"),
        ("a.jsonl.gz", zipped(bytes(2**21)), r"a\.jsonl\.gz holds more than 1 MiB"),
        ("a.json", b"[]", r"ends in .* or \.parquet"),
    ):
        monkeypatch.setattr(named_sets, "MAX_BYTES", 2**20)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_problems(str(tmp_path / name))


def test_a_misspelt_name_is_neither_set_nor_file():
    with pytest.raises(
        UserError, match=r"\(humaneval, mbpp, .+\) nor a file: did you mean humaneval"
    ):
        load_problems("humanevl")
