"""Prompts of problems of unusual form, and where a solution ends."""

import pytest

from xft.common.errors import UserError
from xft.data.templates import make_template
from xft.evaluation.problems import Problem
from xft.evaluation.prompts import COMPLETION_STOPS, cut, task_prompt

DOCSTRING = '"""\nWrite a function to find the last item\nassert last([1]) == 1\n"""\n'


def mbpp_prompt(text: str):
    template = make_template("magicoder", None)
    problem = Problem.model_construct(task_id="Task/0", prompt=text, entry_point="last")
    return task_prompt(problem, "mbpp", template)


def test_an_mbpp_prompt_is_a_request_with_one_full_stop_and_an_assertion():
    for docstring in (DOCSTRING, DOCSTRING.replace("item", "item.")):
        text = mbpp_prompt(docstring).text
        assert "Write a function to find the last item. Your code should satisfy the" in text
    for docstring in ("def last(xs):\n", '"""\nWrite a function.\n"""\n', '"""assert'):
        with pytest.raises(UserError, match="Task/0"):
            mbpp_prompt(docstring)


BODY = "    # a comment\n    if xs:\n        print(xs)\n\n    return xs[-1]"
ENDS = (
    *("\n\n\ndef other():\n    pass", "\nasync def other():\n    pass", "\nclass A:\n    pass"),
    *("\n@cache\ndef other(): ...", "\nimport os", "\nfrom os import path", "\nprint(last([1]))"),
    *("\nif __name__ == '__main__':", "\nassert last([1]) == 1", "\n# a test", '\n"""\nAnother'),
    *("\n```\nprose", "```"),
)


def test_a_humaneval_completion_ends_at_the_next_top_level_statement():
    for rest in ENDS:
        assert cut(BODY + rest, COMPLETION_STOPS["humaneval"]).rstrip("\n") == BODY
    assert cut("a\nprint(1)\ndef f", ("\ndef ", "\nprint(")) == "a"  # the earliest
    for body in (
        *("    return [\n        i\n    for i in xs]", "    iffy = 1\n    return iffy", ""),
        *(
            "    def inner():\n        return 1\n\n    return inner()",
            "    x = 'print(1)'  # def f",
        ),
    ):
        assert cut(body, COMPLETION_STOPS["humaneval"]) == body
