"""The step `contamination`: the rows in which it looks for problems, and what it finds."""

import hashlib
import json
from pathlib import Path

import pytest
from problem_files import three_problems, write_problems

from workflow_scripts import contamination, tokens
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.reporting.contamination import CONTAMINATION

DOCSTRING = "Give back the larger one of two numbers."
SOLUTION = "    return max([first, second, first])\n"
PROBLEM = {
    "prompt": f'def larger(first, second):\n    """{DOCSTRING}"""\n',
    "entry_point": "larger",
    "canonical_solution": SOLUTION,
}
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


def count(made: Path, out: Path, data: str = "rows.jsonl") -> None:
    words = ["--tokens", made / "tokens", "--data", made / data]
    contamination.main(list(map(str, [*words, "--dataset", made / "larger.jsonl", "--out", out])))


def test_the_rows_that_a_training_learns_from_are_counted(made, tmp_path, capsys):
    out = tmp_path / "out.json"
    count(made, out)
    sha256 = {
        name: hashlib.sha256((made / name).read_bytes()).hexdigest()
        for name in ("rows.jsonl", "larger.jsonl")
    }
    counted = {"rows": 3, "contaminated": 2, "problems": sha256["larger.jsonl"]}
    assert CONTAMINATION.read(out) == {"format": 1} | counted
    assert f"2 of 3 rows contain a problem of {made / 'larger.jsonl'}\n" in capsys.readouterr().err
    manifest = read_manifest(manifest_path(out))
    assert manifest.inputs == {
        "tokens": read_manifest(manifest_path(made / "tokens")).id,
        "data": sha256["rows.jsonl"],
        "dataset": sha256["larger.jsonl"],
    }


def test_other_rows_than_those_of_the_tokens_are_refused(made, tmp_path):
    with pytest.raises(UserError, match=r"tokens was not made from \S+larger.jsonl. Name the file"):
        count(made, tmp_path / "out.json", data="larger.jsonl")
