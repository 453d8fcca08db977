"""Prompts byte for byte, and where a solution ends."""

import pytest

from xft.common.errors import UserError
from xft.data.templates import COMPLETION, make_template
from xft.evaluation.problems import Problem
from xft.evaluation.prompts import (
    BUILDERS,
    HUMANEVAL_STOPS,
    MBPP_STOPS,
    cut,
)

CODE = 'from typing import List\n\n\ndef last(xs: List[int]) -> int:\n    """ Last.\n    """\n'
DOCSTRING = '"""\nWrite a function to find the last item\nassert last([1]) == 1\n"""\n'
PREAMBLE = (
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate and "
    "reliable responses to user instructions.\n\n@@ Instruction\n"
)


def build(style: str, form: str, prompt: str):
    template = COMPLETION if style == "completion" else make_template(style, None)
    return BUILDERS[template is not COMPLETION, form](
        Problem("Task/0", prompt, "last", ""), template
    )


def test_magicoder_prompt_of_humaneval():
    prompt = build("magicoder", "humaneval", "\n" + CODE)

    assert prompt.text == (
        PREAMBLE + "Write a solution to the following problem:\n```python\n"
        'from typing import List\n\n\ndef last(xs: List[int]) -> int:\n    """ Last.\n    """\n'
        "```\n\n@@ Response\n```python\n"
        'from typing import List\n\n\ndef last(xs: List[int]) -> int:\n    """ Last.\n    """'
    )


def test_magicoder_solution_of_humaneval_is_code_and_completion():
    prompt = build("magicoder", "humaneval", CODE)

    solution = prompt.solution("\n    return xs[-1]\n\nprint(1)\n```\nThis is `last`.\n```\n")

    assert solution == CODE.strip() + "\n    return xs[-1]\n\nprint(1)\n"


@pytest.mark.parametrize("full_stop", ["", "."])
def test_magicoder_prompt_of_mbpp(full_stop):
    prompt = build("magicoder", "mbpp", DOCSTRING.replace("item", "item" + full_stop))

    assert prompt.text == (
        PREAMBLE + "Write a function to find the last item. Your code should satisfy the following "
        "assertion:\n```python\nassert last([1]) == 1\n```\n\n@@ Response\n```python"
    )


def test_magicoder_solution_of_mbpp_is_the_completion():
    prompt = build("magicoder", "mbpp", DOCSTRING)

    assert prompt.solution("\ndef last(xs):\n    return xs[-1]\n```") == (
        "\ndef last(xs):\n    return xs[-1]\n"
    )


@pytest.mark.parametrize("text", ["def last(xs):\n", '"""\nWrite a function.\n"""\n', '"""assert'])
def test_an_mbpp_prompt_without_an_assertion_is_refused(text):
    with pytest.raises(UserError, match="Task/0"):
        build("magicoder", "mbpp", text)


@pytest.mark.parametrize(("form", "text"), [("humaneval", CODE), ("mbpp", DOCSTRING)])
def test_completion_prompt_is_the_raw_text(form, text):
    prompt = build("completion", form, text)

    assert prompt.text == text
    assert prompt.solution("    return xs[-1]\n```\n") == text + "    return xs[-1]\n"


BODY = "    # a comment\n    if xs:\n        print(xs)\n\n    return xs[-1]"


@pytest.mark.parametrize(
    "rest",
    [
        "\n\n\ndef other():\n    pass",
        "\nasync def other():\n    pass",
        "\nclass A:\n    pass",
        "\n@cache\ndef other(): ...",
        "\nimport os",
        "\nfrom os import path",
        "\nif __name__ == '__main__':",
        "\nassert last([1]) == 1",
        "\nprint(last([1]))",
        "\n# a test",
        '\n"""\nAnother',
        "\n```\nprose",
        "```",
    ],
)
def test_a_humaneval_completion_ends_at_the_next_top_level_statement(rest):
    assert cut(BODY + rest, HUMANEVAL_STOPS).rstrip("\n") == BODY


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        "    return [\n        i\n    for i in xs]",
        "    def inner():\n        return 1\n\n    return inner()",
        "    x = 'print(1)'  # def f\n    return x",
        "    iffy = 1\n    return iffy",
        "",
    ],
)
def test_an_indented_body_is_kept_whole(body):
    assert cut(body, HUMANEVAL_STOPS) == body


def test_an_mbpp_completion_keeps_imports_and_helpers():
    code = "import re\n# help\nclass A:\n    pass\n\ndef f():\n    pass\n\n@cache\ndef g(): pass"

    for rest in ("\nassert g()", '\n"""\nWrite', "\nprint(g())", "\nif __name__", "\n```"):
        assert cut(code + rest, MBPP_STOPS).rstrip("\n") == code


def test_the_earliest_stop_counts():
    assert cut("a\nprint(1)\ndef f", ("\ndef ", "\nprint(")) == "a"
