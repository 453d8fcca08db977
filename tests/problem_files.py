"""Tiny sets of problems in HumanEval+ form, for the tests of the evaluation."""

import json
from pathlib import Path

OPERATORS = {"add": "+", "subtract": "-", "multiply": "*"}

# A program of tests, in MultiPL-E's form.
DOUBLE = {
    "name": "HumanEval_7_double",
    "language": "sh",
    "prompt": "# Doubles $1.\ndouble() {\n",
    "tests": '}\nset -e\n[[ $(double 4) = "8" ]]\n[[ $(double -1) = "-2" ]]',
    "stop_tokens": ["\n}"],
    "original": "/originals/HumanEval_7_double.py",
    "canonical_solution": "    echo $((2 * $1))",
}


def problem(name: str, operator: str, task_id: str) -> dict:
    """A problem whose base test cannot tell 2 + 2 from 2 * 2, but whose plus tests can."""
    return {
        "task_id": task_id,
        "prompt": f'def {name}(a, b):\n    """a {operator} b"""\n',
        "entry_point": name,
        "canonical_solution": f"    return a {operator} b\n",
        "contract": "",
        "base_input": [[2, 2]],
        "plus_input": [[3, 5], [-1, 4]],
        "atol": 0,
    }


def three_problems() -> list[dict]:
    pairs = enumerate(OPERATORS.items())
    return [problem(*names, f"Arithmetic/{number}") for number, names in pairs]


def write_problems(file: Path, problems: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in problems))
    return file


def right_solutions() -> list[str]:
    return [row["prompt"] + row["canonical_solution"] for row in three_problems()]
