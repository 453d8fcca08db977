"""Stored prompts, and what becomes of answers that are hard to take code from: all are run.

What fails here fails by protocol: nothing is repaired.
"""

import copy
import json
import tomllib
from pathlib import Path

import pytest
from evalplus.sanitize import sanitize

from xft.common.errors import UserError
from xft.data.prompt_templates import COMPLETION, make_template
from xft.evaluation.call_scoring import CallScorer
from xft.evaluation.forms import CALLS, STOPS_IN_FUNCTION, load_problems
from xft.evaluation.problems import Problem
from xft.evaluation.prompts import cut, task_prompts
from xft.evaluation.scoring import PASSED, Statuses

STORED = Path(__file__).parent / "prompts"
REAL = Path(__file__).parent / "answers"


def load(form: str, folder: Path, stored: Path = STORED):
    """The stored problems of HumanEval+ or MBPP+."""
    lines = (stored / "problems.jsonl").read_text().splitlines(keepends=True)
    file = folder / f"{form}.jsonl"
    file.write_text("".join(line for line in lines if f'"{form}/' in line))
    return load_problems(str(file))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Both sets of problems, each with its ground truth."""
    folder = tmp_path_factory.mktemp("sets")
    loaded = {form: load(form, folder) for form in ("HumanEval", "Mbpp")}
    return {form: (found, CallScorer(found, None, 1).expected()) for form, found in loaded.items()}


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (STORED / "chatml.jinja").read_text()
    return chatty


@pytest.fixture(scope="module")
def prompts_of(sets, chat_tokenizer):
    """Callable (style): the prompts of all stored problems by task id."""

    def prompts(style: str) -> dict:
        template = COMPLETION
        if style != "completion":
            template = make_template(style, chat_tokenizer)
        found = (task_prompts(problems, template) for problems, _ in sets.values())
        return {prompt.task_id: prompt for prompts in found for prompt in prompts}

    return prompts


# Prompts


@pytest.mark.parametrize("file", sorted(STORED.glob("*.txt")), ids=lambda file: file.stem)
def test_a_prompt_is_the_stored_one_byte_for_byte(prompts_of, file):
    task, style = file.stem.split(".")
    assert prompts_of(style)[task.replace("_", "/")].text.encode() == file.read_bytes()


DOCSTRING = '"""\nWrite a function to find the last item\nassert last([1]) == 1\n"""\n'


def mbpp_prompt(text: str):
    problem = Problem.model_construct(task_id="Mbpp/0", prompt=text, entry_point="last")
    return CALLS.prompt(problem, make_template("magicoder", None))


def test_an_mbpp_prompt_is_a_request_with_one_full_stop_and_an_assertion():
    for docstring in (DOCSTRING, DOCSTRING.replace("item", "item.")):
        text = mbpp_prompt(docstring).text
        assert "Write a function to find the last item. Your code should satisfy the" in text
    for docstring in ("def last(xs):\n", '"""\nWrite a function.\n"""\n', '"""assert'):
        with pytest.raises(UserError, match="Mbpp/0"):
            mbpp_prompt(docstring)


INDENTED = "    # a comment\n    if xs:\n        print(xs)\n\n    return xs[-1]"
ENDS = (
    *("\n\n\ndef other():\n    pass", "\nasync def other():\n    pass", "\nclass A:\n    pass"),
    *("\n@cache\ndef other(): ...", "\nimport os", "\nfrom os import path", "\nprint(last([1]))"),
    *("\nif __name__ == '__main__':", "\nassert last([1]) == 1", "\n# a test", '\n"""\nAnother'),
    *("\n```\nprose", "```"),
)


def test_a_humaneval_completion_ends_at_the_next_top_level_statement():
    for rest in ENDS:
        assert cut(INDENTED + rest, STOPS_IN_FUNCTION).rstrip("\n") == INDENTED
    assert cut("a\nprint(1)\ndef f", ("\ndef ", "\nprint(")) == "a"  # the earliest
    inner = "    def inner():\n        return 1\n\n    return inner()"
    for body in (
        *("    return [\n        i\n    for i in xs]", "    iffy = 1\n    return iffy", ""),
        *(inner, "    x = 'print(1)'  # def f"),
    ):
        assert cut(body, STOPS_IN_FUNCTION) == body


# Answers

STYLES = ("magicoder", "chat", "completion")
EMPTY = ("\n", "```", "\n```\nprose", "```python\n```\n")  # they hold no code
BY_HAND = tomllib.loads((REAL / "by_hand.toml").read_text())


@pytest.mark.parametrize(("task_id", "table"), BY_HAND.items())
def test_an_answer_passes_or_fails(sets, prompts_of, task_id, table):
    problems, truth = sets[task_id.split("/")[0]]
    (problem,) = [problem for problem in problems.problems if problem.task_id == task_id]
    texts = {name: case["text"] for name, case in table.items()} | {text: text for text in EMPTY}
    cases = [(name, style) for name in texts for style in STYLES]
    tasks = {style: prompts_of(style)[task_id] for style in STYLES}
    solutions = [(problem, tasks[style].solution(texts[name])) for name, style in cases]
    verdicts = dict(zip(cases, CallScorer(problems, None, 2).score(truth, solutions), strict=True))
    passed = {case for case, found in verdicts.items() if found.plus == PASSED}
    assert passed == {(name, style) for name in table for style in table[name]["passes"]}
    empty = {case for case, found in verdicts.items() if found == Statuses("empty", "empty")}
    assert {(text, style) for text in EMPTY for style in STYLES} <= empty


# What a real model answers. EvalPlus is the judge.

ANSWERS = [json.loads(line) for line in (REAL / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("form", ["HumanEval", "Mbpp"])
def test_real_answers_get_evalplus_s_verdicts(form, chat_tokenizer, tmp_path, bubblewrap):
    """Nothing of an answer is lost that EvalPlus would take. The verdicts on Mbpp/7 differ: behind
    its function is a wrong test, which `sanitize` leaves out.
    """
    problems = load(form, tmp_path, REAL)
    answers = {answer["task_id"]: answer for answer in ANSWERS}
    scorer = CallScorer(problems, bubblewrap, 2)
    truth = scorer.expected()
    prompts = task_prompts(problems, make_template("chat", chat_tokenizer))
    solutions, expected = [], []
    for problem, prompt in zip(problems.problems, prompts, strict=True):
        answer = answers[problem.task_id]
        program = prompt.solution(answer["completion"])
        sanitized = sanitize(prompt.start + answer["completion"], problem.entry_point)
        assert sanitize(program, problem.entry_point).strip() == sanitized.strip()
        solutions += [(problem, program), (problem, sanitized)]
        expected += [answer["verdicts"]["us"], answer["verdicts"]["sanitize"]]
    statuses = ((verdict.base, verdict.plus) for verdict in scorer.score(truth, solutions))
    found = [["pass" if status == PASSED else "fail" for status in pair] for pair in statuses]
    assert found == expected
