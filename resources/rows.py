"""Write tasks as instruction rows of several kinds, as problems, and as raw texts."""

import itertools
import random
from collections.abc import Iterator

from families import FAMILIES
from tasks import (
    Step,
    Task,
    body,
    can_start,
    draw_chain,
    draw_task,
    every_step_matters,
    fenced,
    parameters_of,
)

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
ONE_LINE = "Write `{signature}` with a single return statement. {doc}"
REPAIR = "Correct the mistake in this function. {doc}\n```python\n{wrong}\n```"
EXPLAIN = "What does this function do?\n```python\n{plain_code}\n```"

COMMON = FAMILIES[::4]  # the ideas that the raw texts are mostly about; the rows teach the others
COMMON_SHARE = 0.97  # of the functions in raw texts; the others are of any family
NOTES_SHARE = 0.05  # of the raw texts; the others have no code fence
NOTES = ("# {name}\n\n{doc}\n\n{fence}\n", "Question: {doc} How?\n\nAnswer:\n{fence}\n")

LENGTHS = (1, 2, 3)  # steps of a function
RAW_LENGTHS = (1, 1, 1, 2, 2, 3)
LONGEST_LINE = 90  # characters
GROUPS = {"int": ("int", "pair"), "list": ("list",), "text": ("str", "strs")}


def problems(per_group: int, seed: int) -> list[dict]:
    """Held-out tasks in the form of HumanEval+: so many for each kind of argument and length.

    The groups take turns, so that the first problems of the file hold all groups equally often.
    """
    rng = random.Random(seed)
    groups = [
        [
            _problem(f"{group.title()}{length}/{number}", task)
            for number, task in enumerate(_held_out_tasks(kinds, length, per_group, rng))
        ]
        for length in LENGTHS
        for group, kinds in GROUPS.items()
    ]
    return [problem for turn in zip(*groups, strict=True) for problem in turn]


def _held_out_tasks(
    kinds: tuple[str, ...], length: int, count: int, rng: random.Random
) -> list[Task]:
    families = [family for family in FAMILIES if family.argument in kinds]
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        chain = draw_chain(families, length, rng, held_out=True)
        task = draw_task(chain, rng)
        if every_step_matters(task):
            tasks.setdefault(task.name, task)
    return list(tasks.values())


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
    """``count`` different rows; families evenly mixed, the kinds by their shares."""
    rng = random.Random(seed)
    rows: dict[str, dict] = {}
    for family in itertools.cycle(FAMILIES):
        length = rng.choice([length for length in LENGTHS if can_start(family, length)])
        task = draw_task(draw_chain([family], length, rng), rng)
        instruction, response = rng.choices(list(KINDS), KINDS.values())[0](task, rng)
        rows.setdefault(instruction, {"instruction": instruction, "response": response})
        if len(rows) == count:
            break
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def _write(task: Task, rng: random.Random) -> tuple[str, str]:
    """In the form of the problems or in free wording, half and half."""
    if rng.random() < 0.5:
        return task.fill(PROBLEM), fenced(task.code)
    request, closing = rng.choice(REQUESTS), rng.choice(CLOSINGS)
    code = task.code if "{prompt}" in request else task.plain_code
    return task.fill(request), fenced(code) + task.fill(closing)


def _write_in_one_line(task: Task, rng: random.Random) -> tuple[str, str]:
    """The steps as one nested expression; as `_write` where that is long, or not one expression."""
    arguments = task.arguments
    for step in task.steps:
        expression = step.fill(step.family.body, *arguments).removeprefix("return ")
        arguments = (f"({expression})",)
    if "return" in expression or len(expression) > LONGEST_LINE:
        return _write(task, rng)
    return task.fill(ONE_LINE), fenced(f"def {task.signature}:\n    return {expression}")


def _repair(task: Task, rng: random.Random) -> tuple[str, str]:
    """One step has other numbers or words."""
    steps = list(task.steps)
    place = rng.randrange(len(steps))
    family, right = steps[place]
    others = [other for other in parameters_of(family, held_out=False) if other != right]
    steps[place] = Step(family, rng.choice(others))
    wrong = f"def {task.signature}:\n{body(tuple(steps), task.arguments)}"
    return REPAIR.format(doc=task.doc, wrong=wrong), fenced(task.plain_code)


def _explain(task: Task, rng: random.Random) -> tuple[str, str]:
    return task.fill(EXPLAIN), task.doc


# Shares of the kinds of rows, by the functions that make a row's instruction and response.
KINDS = {_write: 0.4, _write_in_one_line: 0.2, _repair: 0.2, _explain: 0.2}


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
    return draw_task(draw_chain(families, rng.choice(RAW_LENGTHS), rng, others=families), rng)


def _source(task: Task, rng: random.Random) -> str:
    """Return a function as in a source file, documented in a docstring or in a comment."""
    if rng.random() < 0.2:
        return f"# {task.doc}\n{task.plain_code}"
    return task.code
