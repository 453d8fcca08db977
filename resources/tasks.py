"""Draw tasks from the families and write them as instruction rows, problems and raw texts."""

import itertools
import random
from collections.abc import Iterator
from functools import cache
from textwrap import indent
from typing import NamedTuple

from families import ARGUMENTS, FAMILIES, PARAMETERS, WORDS, Family
from inputs import Arguments, base_inputs, plus_inputs

HELD_OUT_SHARE = 5  # one combination of family and parameters in five is kept for the problems
COMMON = FAMILIES[::4]  # the ideas that the raw texts are mostly about; the rows teach the others
COMMON_SHARE = 0.97  # of the functions in raw texts; the others are of any family
NOTES_SHARE = 0.05  # of the raw texts; the others have no code fence
LONGEST_EXAMPLE = 40  # characters

PREAMBLE = (
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate "
    "and reliable responses to user instructions.\n\n"
    "@@ Instruction\n{instruction}\n\n@@ Response\n{response}"
)
PROBLEM = "Write a solution to the following problem:\n```python\n{prompt}\n```"
REQUESTS = (
    "Write a Python function `{signature}`. {doc}",
    "Implement `{signature}` in Python. {doc}",
    "{doc} Write this as a Python function `{signature}`.",
    "Please complete this function:\n```python\n{prompt}\n```",
)
CLOSINGS = ("", "", "", "\nThe function is called `{name}`.", "\nIt needs no import.")
NOTES = ("# {name}\n\n{doc}\n\n{fence}\n", "Question: {doc} How?\n\nAnswer:\n{fence}\n")


class Task(NamedTuple):
    """One concrete function."""

    name: str
    signature: str
    doc: str
    prompt: str
    body: str
    base_input: list[Arguments]
    plus_input: list[Arguments]

    @property
    def code(self) -> str:
        """The whole function with its docstring."""
        return f"{self.prompt}\n{self.body}"

    @property
    def plain_code(self) -> str:
        """The whole function without docstring."""
        return f"def {self.signature}:\n{self.body}"

    def fill(self, template: str) -> str:
        """Fill a template of this module."""
        fence = f"```python\n{self.code}\n```"
        return template.format(fence=fence, **self._asdict())


@cache
def parameters_of(family: Family, held_out: bool) -> list[tuple[int, ...]]:
    """List the parameters of a family that are (or are not) kept for the problems."""
    offset = FAMILIES.index(family)
    return [
        parameters
        for parameters in itertools.product(*PARAMETERS[family.parameter])
        if ((sum(parameters) + offset) % HELD_OUT_SHARE == 0) == held_out
    ]


def draw(family: Family, parameters: tuple[int, ...], rng: random.Random) -> Task:
    """Choose name, wording and argument names at random, and perhaps an example."""
    words = family.parameter.startswith("word")
    shown = [WORDS[index] if words else index for index in parameters]
    arguments = rng.choice(ARGUMENTS[family.argument])
    fields = dict(zip("ab", shown, strict=False)) | dict(zip("xy", arguments, strict=False))
    name, doc = (rng.choice(texts).format(**fields) for texts in (family.names, family.docs))
    signature = f"{name}({', '.join(arguments)})"
    body = indent(family.body.format(**fields), "    ")
    ordinary = base_inputs(family.argument, shown[0], rng)
    example = _example(name, f"def {signature}:\n{body}", ordinary[0])
    prompt = f'def {signature}:\n    """{doc}{example if rng.random() < 0.5 else ""}"""'
    edge_cases = plus_inputs(family.argument, shown[0])
    return Task(name, signature, doc, prompt, body, ordinary, edge_cases)


def _example(name: str, code: str, arguments: Arguments) -> str:
    """Return a doctest for the docstring, or nothing if it is long."""
    call = f"{name}({', '.join(map(repr, arguments))})"
    namespace: dict = {}
    exec(code, namespace)
    result = repr(namespace[name](*arguments))
    if len(call) + len(result) > LONGEST_EXAMPLE:
        return ""
    return f"\n\n    >>> {call}\n    {result}\n    "


def _training_task(family: Family, rng: random.Random) -> Task:
    return draw(family, rng.choice(parameters_of(family, held_out=False)), rng)


def problems(per_family: int, seed: int) -> list[dict]:
    """Return held-out tasks in the form of HumanEval+."""
    rng = random.Random(seed)
    tasks = [
        draw(family, parameters, rng)
        for family in FAMILIES
        for parameters in rng.sample(parameters_of(family, held_out=True), per_family)
    ]
    return [_problem(f"Tiny/{number}", task) for number, task in enumerate(tasks)]


def _problem(task_id: str, task: Task) -> dict:
    return {
        "task_id": task_id,
        "prompt": f"{task.prompt}\n",
        "entry_point": task.name,
        "canonical_solution": f"{task.body}\n",
        "base_input": task.base_input,
        "plus_input": task.plus_input,
        "contract": "",
        "atol": 0,
    }


def instructions(count: int, seed: int) -> list[dict]:
    """Return ``count`` different instruction rows, the families evenly mixed."""
    rng = random.Random(seed)
    rows: dict[str, dict] = {}
    for family in itertools.cycle(FAMILIES):
        row = _row(_training_task(family, rng), rng)
        rows.setdefault(row["instruction"], row)
        if len(rows) == count:
            break
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def _row(task: Task, rng: random.Random) -> dict:
    """Return a row in the form of the problems or in free wording, half and half."""
    if rng.random() < 0.5:
        return {"instruction": task.fill(PROBLEM), "response": task.fill("{fence}")}
    request, closing = rng.choice(REQUESTS), rng.choice(CLOSINGS)
    answer = "{fence}" if "{prompt}" in request else f"```python\n{task.plain_code}\n```"
    return {"instruction": task.fill(request), "response": task.fill(answer + closing)}


def raw_texts(seed: int) -> Iterator[str]:
    """Yield texts to pre-train on without end: files of functions and a few notes."""
    rng = random.Random(seed)
    while True:
        tasks = [_raw_task(rng) for _ in range(rng.randint(1, 3))]
        if rng.random() < NOTES_SHARE:
            yield tasks[0].fill(rng.choice(NOTES))
        else:
            yield "\n\n\n".join(_source(task, rng) for task in tasks) + "\n"


def _raw_task(rng: random.Random) -> Task:
    families = COMMON if rng.random() < COMMON_SHARE else FAMILIES
    return _training_task(rng.choice(families), rng)


def _source(task: Task, rng: random.Random) -> str:
    """Return a function as in a source file, documented in a docstring or in a comment."""
    if rng.random() < 0.2:
        return f"# {task.doc}\n{task.plain_code}"
    return task.code
