"""The step `contamination`: the rows in which it looks for problems, and what it finds."""

import json
from pathlib import Path

import pandas
import pytest
from problem_files import three_problems, write_problems

from workflow_scripts import contamination, tokens
from xft.artifacts.manifest import CONTAMINATION, hash_file, manifest_path, read_manifest
from xft.common.errors import UserError

DOCSTRING = "Give back the larger one of two numbers."
SOLUTION = "    return max([first, second, first])\n"
PROBLEM = {"entry_point": "larger", "canonical_solution": SOLUTION}
PROBLEM["prompt"] = f'def larger(first, second):\n    """{DOCSTRING}"""\n'
CHAT = [{"role": role, "content": DOCSTRING} for role in 2 * ("user", "assistant")]
LIMIT = 5  # good rows
LINES = [
    {"instruction": DOCSTRING, "response": "max"},  # counts
    {"instruction": "Add.", "response": "a + b"},
    {"instruction": DOCSTRING},  # bad
    {"instruction": DOCSTRING + " ", "response": "max"},  # a duplicate
    {"messages": CHAT},  # bad: the template takes one turn
    {"instruction": DOCSTRING, "response": "max(0, 0)"},  # its text has the smallest SHA-256
    {"instruction": "Which?", "response": f"def f(first, second):\n{SOLUTION}"},  # counts
    {"instruction": DOCSTRING, "response": "beyond the limit"},
]


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory) -> Path:
    """A folder with rows, their tokens and problems."""
    folder = tmp_path_factory.mktemp("made")
    write_problems(folder / "larger.jsonl", [three_problems()[0] | PROBLEM])
    lines = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / "rows.jsonl").write_bytes(lines.encode() + b"\xff\n")
    words = ["--model", str(tiny_llama), "--data", str(folder / "rows.jsonl"), "--problems"]
    words += ["--limit", str(LIMIT), "--bad-rows", "skip", "--validation-rows", "1"]
    tokens.main([*words, "--out", str(folder / "tokens")])
    return folder


def count(made: Path, out: Path, *data: str, of: str = "tokens") -> None:
    words = ["--tokens", made / of, "--data", *(made / name for name in data or ["rows.jsonl"])]
    contamination.main(list(map(str, [*words, "--dataset", made / "larger.jsonl", "--out", out])))


def test_the_rows_that_a_training_learns_from_are_counted(made, tmp_path, capsys):
    out = tmp_path / "out.json"
    count(made, out)
    rows, problems = (hash_file(made / name) for name in ("rows.jsonl", "larger.jsonl"))
    counted = {"rows": 3, "contaminated": 2, "problems": problems}
    assert CONTAMINATION.read(out) == {"format": 1} | counted
    assert f"2 of 3 rows contain a problem of {made / 'larger.jsonl'}\n" in capsys.readouterr().err
    manifest = read_manifest(manifest_path(out))
    tokens_id = read_manifest(manifest_path(made / "tokens")).id
    assert manifest.inputs == {"tokens": tokens_id, "data": rows, "dataset": problems}


def test_other_rows_than_those_of_the_tokens_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"tokens was not made from \S+larger.jsonl. Name the"):
        count(made, tmp_path / "out.json", "larger.jsonl")


def test_a_list_of_files_is_one_set_of_rows(made, tiny_llama, tmp_path):
    more = [LINES[1], {"instruction": DOCSTRING, "response": "max()"}, {"instruction": "i"}]
    pandas.DataFrame(more).to_csv(made / "more.csv", index=False)
    files = [str(made / "more.csv"), str(made / "rows.jsonl")]
    words = ["--model", str(tiny_llama), "--bad-rows", "skip", "--problems", "--data", *files]
    words += ["--report", str(report := tmp_path / "report.json"), "--out", str(made / "both")]
    with pytest.raises(UserError, match=r"limit = \[1, 2, 3\]: give one number for"):
        tokens.main([*words, "--limit", "1", "2", "3"])
    tokens.main([*words, "--limit", "9", "2"])
    assert json.loads(report.read_text())["removed_rows"] == [
        {"row": f"{files[0]}: 3", "reason": "bad", "fault": "column 'response' is empty"},
        {"row": f"{files[1]}: 2", "reason": "duplicate", "of": f"{files[0]}: 1"},
    ]
    count(made, tmp_path / "out.json", "more.csv", "rows.jsonl", of="both")
    counted = CONTAMINATION.read(tmp_path / "out.json")
    assert (counted["rows"], counted["contaminated"]) == (3, 2)
    with pytest.raises(UserError, match=r"both was not made from \S+rows.jsonl, \S+more.csv\."):
        count(made, tmp_path / "out.json", "rows.jsonl", "more.csv", of="both")
