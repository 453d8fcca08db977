"""Sets of problems: where they are found, and what is said about a broken file."""

import codecs
import gzip
import hashlib
import os
from dataclasses import replace

import pytest
from problem_files import problem, three_problems, write_problems

from xft.common.errors import UserError
from xft.evaluation.problems import load_problems
from xft.hub import named_sets
from xft.hub.named_sets import NAMED_SETS


def test_a_set_has_the_rows_of_its_file_plain_or_compressed(tmp_path):
    plain = write_problems(tmp_path / "sums.jsonl", three_problems())
    packed, marked = tmp_path / "sums.jsonl.gz", tmp_path / "marked.jsonl"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    marked.write_bytes(codecs.BOM_UTF8 + plain.read_bytes())
    found = load_problems(str(plain))
    assert (found.name, found.form) == ("sums", "humaneval")
    assert found.sha256 == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert [p.model_dump() for p in found.problems] == three_problems()
    assert load_problems(str(packed)) == replace(found, file=packed)
    assert load_problems(str(marked)).problems == found.problems
    assert found.first(2) == replace(found, problems=found.problems[:2])
    assert found.first(None) == found
    mbpp = [problem("add", "+", "Mbpp/7"), problem("subtract", "-", "Mbpp/8")]
    assert load_problems(str(write_problems(plain, mbpp))).form == "mbpp"


def test_a_named_set_comes_from_the_override_variable(tmp_path, monkeypatch):
    file = write_problems(tmp_path / "copy.jsonl", three_problems())
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(file))
    found = load_problems("humaneval")
    assert (found.name, found.file) == ("humaneval", file)
    file.unlink()
    with pytest.raises(UserError, match=r"HUMANEVAL_OVERRIDE_PATH names .*copy\.jsonl"):
        load_problems("humaneval")


def test_a_named_set_comes_from_the_cache_of_evalplus(tmp_path, monkeypatch):
    monkeypatch.delenv("MBPP_OVERRIDE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "evalplus" / "MbppPlus-v0.2.0.jsonl"
    file.parent.mkdir()
    write_problems(file, [problem("add", "+", "Mbpp/7")])
    pinned = replace(NAMED_SETS["mbpp"], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(NAMED_SETS, "mbpp", pinned)

    assert load_problems("mbpp").file == file

    file.write_text(file.read_text() + "\n")
    for instead in (" in place of the file there", ""):
        with pytest.raises(UserError, match="MBPP_OVERRIDE_PATH") as refusal:
            load_problems("mbpp")
        assert f", unpacked, at {file}{instead}, or set" in str(refusal.value)
        assert "workflow_scripts.fetch_problems --dataset mbpp" in str(refusal.value)
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].pop("entry_point"), r"line 2: entry_point: Field required$"),
        (
            lambda rows: rows[2].update(base_input="x"),
            r"line 3: base_input: Input should be a valid list",
        ),
        (lambda rows: rows[1].update(task_id="Arithmetic/0"), r"more than once: Arithmetic/0"),
        (lambda rows: rows[1].update(task_id="Mbpp/1"), r"mixes task ids .*Arithmetic/0"),
        (lambda rows: rows.clear(), r"holds no problem"),
        (lambda rows: rows[1].update(base_input=[], plus_input=[]), r"line 2: .* hold no call"),
        (lambda rows: rows[2].update(entry_point="f"), r"line 3: .* define no f, .* entry_point"),
        (
            lambda rows: rows[0].update(prompt="def f():\n", canonical_solution="    def add(): 0"),
            r"line 1: .* define no add",
        ),
        (
            lambda rows: rows[1].update(canonical_solution="  return (a\n"),
            r"line 2: .* are not valid Python: .* \(line 3 of the program\)",
        ),
        (
            lambda rows: rows[0].update(base_input=[[1, 2], {"alpha": 1}]),
            r"line 1: base_input.1: Input should be a valid list. .*, each the list of the fun",
        ),
        (lambda rows: rows[0].update(plus_input={"a": 1}), r"plus_input: Input should be a valid"),
        (
            lambda rows: (
                [rows[1].pop(key) for key in ("base_input", "contract")]
                and rows[1].update(test="def check(candidate): ...")
            ),
            r"line 2: .*HumanEval's original form.* EvalPlus's form.* name the data set humaneval",
        ),
        (lambda rows: rows[1].update(prompt="\0"), r"line 2: prompt and canonical_solution are no"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    rows = three_problems()
    change(rows)
    file = write_problems(tmp_path / "sums.jsonl", rows)

    with pytest.raises(UserError, match=message) as refusal:
        load_problems(str(file))
    assert str(file) in str(refusal.value)


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
    rows = [
        row | {"task_id": f"Own/{number}", "canonical_solution": program}
        for number, program in enumerate(DEFINITIONS)
    ]
    assert load_problems(str(write_problems(tmp_path / "own.jsonl", rows))).problems


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"task_id": \n', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b"null\n", r"a\.jsonl, line 1: Input should be a valid dict"),
        ("a.jsonl", b"\n[" + b"1" * 5000 + b"]\n", r"line 2: .* a number has too many digits"),
        ("a.jsonl", b"[" * 10**5, r"line 1: .* nested too deeply"),
        ("a.jsonl", b"\xff\n", r"a\.jsonl is not UTF-8"),
        (
            "a.jsonl.gz",
            gzip.compress(b"{}" * 999, mtime=0)[:-9],
            r"a\.jsonl\.gz is not a whole gzip file",
        ),
        ("a.json", b"[]", r"ends in \.jsonl or \.jsonl\.gz"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=message):
        load_problems(str(tmp_path / name))


def test_only_a_file_of_a_bounded_size_is_read(tmp_path, monkeypatch):
    bomb, pipe = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"
    bomb.write_bytes(gzip.compress(bytes(2**21)))
    os.mkfifo(pipe)
    monkeypatch.setattr(named_sets, "MAX_BYTES", 2**20)
    with pytest.raises(UserError, match=r"a\.jsonl\.gz holds more than 1 MiB"):
        load_problems(str(bomb))
    with pytest.raises(UserError, match=r"b\.jsonl is a named pipe, not a file"):
        load_problems(str(pipe))


def test_a_misspelt_name_is_neither_set_nor_file():
    with pytest.raises(UserError, match=r"\(humaneval, mbpp\) nor a file: did you mean humaneval"):
        load_problems("humanevl")


def test_the_real_sets_load(repository):
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with the real sets is not there")

    humaneval = load_problems(str(folder / "HumanEvalPlus.jsonl.gz"))
    mbpp = load_problems(str(folder / "MbppPlus.jsonl.gz"))

    assert (len(humaneval.problems), humaneval.form) == (164, "humaneval")
    assert (len(mbpp.problems), mbpp.form) == (378, "mbpp")
