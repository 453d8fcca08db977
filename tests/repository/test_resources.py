"""The embedded rows and problems: reproducible, separate and usable."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from interpreter import python

RESOURCES = Path(__file__).parents[2] / "resources"
FENCED = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


def read_rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESOURCES / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    return read_rows("problems.jsonl")


DATA = "data", ["instructions.jsonl", "problems.jsonl"]
TOKENIZER = ["base/tokenizer.json", "base/tokenizer_config.json"]
TOKENIZER = pytest.param("tokenizer", TOKENIZER, marks=pytest.mark.slow)


@pytest.mark.parametrize(("part", "files"), [DATA, TOKENIZER])
def test_files_are_made_again_to_the_byte(part, files, tmp_path):
    python(RESOURCES / "generate.py", part, "--out", tmp_path)
    for name in files:
        assert (tmp_path / name).read_bytes() == (RESOURCES / name).read_bytes(), name


def test_the_first_problems_hold_all_families_equally_often(problems):
    families = [problem["task_id"].partition("/")[0] for problem in problems[:18]]
    assert list(Counter(families).values()) == [2] * 9


def functions(code: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]


def body_of(function: ast.FunctionDef) -> str:
    """The statements without the docstring, in one spelling."""
    statements = function.body[ast.get_docstring(function) is not None :]
    return ast.unparse(statements)


@pytest.mark.ci
def test_no_problem_and_no_solution_is_in_a_row_or_in_the_pretraining_texts(problems):
    """The texts are the first 5000, made in a process of its own."""
    code = "import itertools, json, generate, rows; texts = rows.raw_texts(generate.SEED); "
    code += "print(json.dumps(list(itertools.islice(texts, 5000))))"
    texts = json.loads(python("-c", code, cwd=RESOURCES).stdout)
    texts += [text for row in read_rows("instructions.jsonl") for text in row.values()]
    names = set(re.findall(r"\w+", "\n".join(texts)))
    words = " ".join(" ".join(texts).split())
    codes = [code for text in texts for code in FENCED.findall(text)]
    codes += [text for text in texts[:5000] if "```" not in text]
    bodies = {body_of(function) for code in codes for function in functions(code)}
    for problem in problems:
        (function,) = functions(problem["prompt"] + problem["canonical_solution"])
        assert function.name not in names
        assert ast.get_docstring(function).splitlines()[0] not in words
        assert body_of(function) not in bodies, problem["task_id"]
