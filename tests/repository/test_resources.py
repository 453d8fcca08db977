"""The embedded base model, rows and problems: reproducible, separate and usable."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

RESOURCES = Path(__file__).parents[2] / "resources"
FENCED = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
PROBLEM_FIELDS = {
    "task_id",
    "prompt",
    "entry_point",
    "canonical_solution",
    "base_input",
    "plus_input",
    "contract",
    "atol",
}


def read_rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESOURCES / name).read_text("utf-8").splitlines()]


def squeeze(text: str) -> str:
    return " ".join(text.split())


def function_of(code: str) -> ast.FunctionDef:
    return ast.parse(code).body[0]


def body_of(function: ast.FunctionDef) -> str:
    """Return the statements without the docstring, in one spelling."""
    statements = function.body[ast.get_docstring(function) is not None :]
    return ast.unparse(statements)


@pytest.fixture(scope="module")
def instructions() -> list[dict]:
    return read_rows("instructions.jsonl")


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    return read_rows("problems.jsonl")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(RESOURCES / "base")


@pytest.fixture(scope="module")
def pretraining_texts() -> list[str]:
    """A part of the raw texts, made in a process of its own."""
    code = (
        "import itertools, json, generate, rows\n"
        "texts = itertools.islice(rows.raw_texts(generate.SEED), 5000)\n"
        "print(json.dumps(list(texts)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=RESOURCES, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("data", ["instructions.jsonl", "problems.jsonl"]),
        pytest.param(
            *("tokenizer", ["base/tokenizer.json", "base/tokenizer_config.json"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_files_are_made_again_to_the_byte(part, files, tmp_path):
    command = [sys.executable, RESOURCES / "generate.py", part, "--out", tmp_path]
    subprocess.run(command, check=True)
    for name in files:
        assert (tmp_path / name).read_bytes() == (RESOURCES / name).read_bytes(), name


def test_rows_answer_with_one_function_or_explain_one(instructions):
    assert len(instructions) >= 2000
    explained = 0
    for row in instructions:
        assert row.keys() == {"instruction", "response"}
        explains = row["instruction"].startswith("What does this function do?")
        explained += explains
        (code,) = FENCED.findall(row["instruction" if explains else "response"])
        assert isinstance(function_of(code), ast.FunctionDef)
        assert not (explains and FENCED.search(row["response"]))
    assert 0.1 < explained / len(instructions) < 0.3


def test_problems_have_the_form_of_humaneval_plus(problems):
    for problem in problems:
        assert problem.keys() == PROBLEM_FIELDS
        assert 3 <= len(problem["base_input"]) <= 4
        assert 6 <= len(problem["plus_input"]) <= 10
        function = function_of(problem["prompt"] + problem["canonical_solution"])
        assert function.name == problem["entry_point"]
        assert ast.get_docstring(function)


def test_each_step_of_a_problem_matters(problems):
    """Without any one of its lines, a solution is wrong or no program."""
    for problem in problems:
        lines = problem["canonical_solution"].splitlines()
        right = results(problem, lines)
        for number in range(len(lines) - 1):
            shortened = lines[:number] + lines[number + 1 :]
            assert results(problem, shortened) != right, problem["task_id"]


def results(problem: dict, lines: list[str]) -> list | None:
    """What a function with these lines gives for all inputs; None if it fails."""
    namespace = {}
    try:
        exec("\n".join([problem["prompt"], *lines]), namespace)
        function = namespace[problem["entry_point"]]
        return [function(*x) for x in problem["base_input"] + problem["plus_input"]]
    except (SyntaxError, NameError, TypeError, AttributeError):
        return None


def test_no_problem_is_in_a_row_or_in_the_pretraining_texts(
    problems, instructions, pretraining_texts
):
    rows = [f"{row['instruction']}\n{row['response']}" for row in instructions]
    seen = squeeze("\n".join(rows + pretraining_texts))
    names = set(re.findall(r"\w+", seen))
    for problem in problems:
        function = function_of(problem["prompt"] + problem["canonical_solution"])
        assert squeeze(problem["prompt"]) not in seen
        assert ast.get_docstring(function).splitlines()[0] not in seen
        assert problem["entry_point"] not in names


def test_no_solution_is_in_a_row_or_in_the_pretraining_texts(
    problems, instructions, pretraining_texts
):
    fenced = [row["response"] for row in instructions if FENCED.search(row["response"])]
    texts = fenced + pretraining_texts
    codes = [code for text in texts for code in FENCED.findall(text) or [text]]
    seen = {
        body_of(node)
        for code in codes
        for node in ast.parse(code).body
        if isinstance(node, ast.FunctionDef)
    }
    for problem in problems:
        solution = function_of(problem["prompt"] + problem["canonical_solution"])
        assert body_of(solution) not in seen, problem["task_id"]


def test_model_loads_in_transformers(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(RESOURCES / "base")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    assert 800_000 < model.num_parameters() < 1_000_000
    assert model.config.rope_parameters["rope_theta"] == 100_000
    with torch.inference_mode():
        logits = model(**tokenizer("def add_7(x):", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer) == 768
    assert logits.isfinite().all()


def test_tokenizer_puts_bos_in_front_and_round_trips(tokenizer):
    text = 'def f(x):\n    """Añade 12 a x."""\n\treturn x  +  12  # <ok>\n'
    tokens = tokenizer(text).input_ids
    assert tokens[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokens[1:]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<pad>",
    )
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 1024
