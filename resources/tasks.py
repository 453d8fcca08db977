"""Draw tasks: functions of one step or several, such as "Add 3 to x. Then double the result."."""

import itertools
import random
from collections.abc import Callable, Sequence
from functools import cache
from textwrap import indent
from typing import NamedTuple

from families import ARGUMENTS, FAMILIES, PARAMETERS, WORDS, Family
from inputs import Arguments, base_inputs, plus_inputs

HELD_OUT_SHARE = 5  # one combination of family and parameters in five is kept for the problems
LONGEST_EXAMPLE = 40  # characters
NAMED_STEPS = 2  # of a function's steps, the first ones are in its name
RESULT = "result"


class Step(NamedTuple):
    """One family with its parameters."""

    family: Family
    parameters: tuple[int, ...]

    @property
    def shown(self) -> list[int | str]:
        """The parameters as they stand in a text."""
        words = self.family.parameter.startswith("word")
        return [WORDS[index] if words else index for index in self.parameters]

    def fill(self, template: str, *arguments: str) -> str:
        """A template of the family with the parameters and the names of the arguments."""
        shown = dict(zip("ab", self.shown, strict=False))
        named = dict(zip("xy", arguments, strict=False))
        return template.format(**shown, **named)


class Task(NamedTuple):
    """One concrete function."""

    name: str
    signature: str
    arguments: tuple[str, ...]
    doc: str
    prompt: str
    steps: tuple[Step, ...]
    base_input: list[Arguments]
    plus_input: list[Arguments]

    @property
    def body(self) -> str:
        """The statements, one or more for each step."""
        return body(self.steps, self.arguments)

    @property
    def code(self) -> str:
        """The whole function with its docstring."""
        return f"{self.prompt}\n{self.body}"

    @property
    def plain_code(self) -> str:
        """The whole function without docstring."""
        return f"def {self.signature}:\n{self.body}"

    def fill(self, template: str) -> str:
        """Fill a template of rows."""
        texts = {"plain_code": self.plain_code, "fence": fenced(self.code)}
        return template.format(**texts, **self._asdict())


def fenced(code: str) -> str:
    """A block of Python in Markdown."""
    return f"```python\n{code}\n```"


def body(steps: tuple[Step, ...], arguments: tuple[str, ...]) -> str:
    """The statements of a function, indented."""
    lines = []
    for number, step in enumerate(steps):
        text = step.fill(step.family.body, *(arguments if number == 0 else (RESULT,)))
        is_last = number == len(steps) - 1
        lines.append(text if is_last else text.replace("return", f"{RESULT} =", 1))
    return indent("\n".join(lines), "    ")


@cache
def parameters_of(family: Family, held_out: bool) -> list[tuple[int, ...]]:
    """List the parameters of a family that are (or are not) kept for the problems."""
    offset = FAMILIES.index(family)
    return [
        parameters
        for parameters in itertools.product(*PARAMETERS[family.parameter])
        if ((sum(parameters) + offset) % HELD_OUT_SHARE == 0) == held_out
    ]


def draw_step(family: Family, held_out: bool, rng: random.Random) -> Step:
    """A family with random parameters."""
    return Step(family, rng.choice(parameters_of(family, held_out)))


def draw_chain(
    firsts: Sequence[Family],
    length: int,
    rng: random.Random,
    *,
    others: Sequence[Family] = FAMILIES,
    held_out: bool = False,
) -> tuple[Step, ...]:
    """Random steps, the first of `firsts`. Each changes something, and none is constant."""
    while True:
        families = [rng.choice(firsts)]
        while len(families) < length:
            kind = result_kind(families[-1])
            fitting = [family for family in others if family.argument == kind]
            if not fitting:
                break
            families.append(rng.choice(fitting))
        steps = tuple(draw_step(family, held_out, rng) for family in families)
        if length == 1 or (len(steps) == length and _is_sound(steps, rng)):
            return steps


def can_start(family: Family, length: int) -> bool:
    """Whether a chain of this length can begin with the family."""
    return length == 1 or bool(result_kind(family))


@cache
def result_kind(family: Family) -> str:
    """The kind of a family's result, if another step can follow; otherwise ""."""
    if not family.body.startswith("return"):
        return ""
    rng = random.Random(0)
    step = draw_step(family, held_out=False, rng=rng)
    values = [value for value in map(_function((step,)), _inputs(step, rng)) if value != []]
    match values[0]:
        case bool():
            return ""
        case int():
            return "int"
        case str():
            return "str"
        case [str(), *_]:
            return "strs"
        case [int(), *_]:
            return "list"
    raise ValueError(f"no kind for {values[0]!r}")


def every_step_matters(task: Task) -> bool:
    """Whether the function without any one of its steps gives other results."""
    inputs = task.base_input + task.plus_input
    right = _results(task.steps, inputs)
    return not any(
        _results(task.steps[:number] + task.steps[number + 1 :], inputs) == right
        for number, step in enumerate(task.steps[:-1])
        if step.family.argument == result_kind(step.family)
    )


def _is_sound(steps: tuple[Step, ...], rng: random.Random) -> bool:
    """Whether each step changes at least one value and has more than one result."""
    inputs = _inputs(steps[0], rng)
    before = None
    for length in range(1, len(steps) + 1):
        after = _results(steps[:length], inputs)
        if after == before or len(set(after)) == 1:
            return False
        before = after
    return True


def _results(steps: tuple[Step, ...], inputs: list[Arguments]) -> list[str]:
    """What the function of the steps returns for each input, as text."""
    return [repr(value) for value in map(_function(steps), inputs)]


def _inputs(step: Step, rng: random.Random) -> list[Arguments]:
    """Ordinary arguments and edge cases for a function that begins with the step."""
    argument, parameter = step.family.argument, step.shown[0]
    return base_inputs(argument, parameter, rng) + plus_inputs(argument, parameter)


def _function(steps: tuple[Step, ...]) -> Callable:
    """The function of the steps, on one list of arguments."""
    names = ARGUMENTS[steps[0].family.argument][0]
    namespace: dict = {}
    exec(f"def function({', '.join(names)}):\n{body(steps, names)}", namespace)
    return lambda arguments: namespace["function"](*arguments)


def draw_task(steps: tuple[Step, ...], rng: random.Random) -> Task:
    """Choose name, wording and argument names at random, and perhaps an example."""
    argument, parameter = steps[0].family.argument, steps[0].shown[0]
    arguments = rng.choice(ARGUMENTS[argument])
    names = (step.fill(rng.choice(step.family.names), *arguments) for step in steps[:NAMED_STEPS])
    name = "_then_".join(names)
    doc = _doc(steps, arguments, rng)
    signature = f"{name}({', '.join(arguments)})"
    ordinary = base_inputs(argument, parameter, rng)
    example = _example(name, steps, ordinary[0])
    prompt = f'def {signature}:\n    """{doc}{example if rng.random() < 0.5 else ""}"""'
    edge_cases = plus_inputs(argument, parameter)
    return Task(name, signature, arguments, doc, prompt, steps, ordinary, edge_cases)


def _doc(steps: tuple[Step, ...], arguments: tuple[str, ...], rng: random.Random) -> str:
    """One sentence for each step."""
    sentences = [steps[0].fill(rng.choice(steps[0].family.docs), *arguments)]
    for step in steps[1:]:
        text = step.fill(rng.choice(step.family.docs), "the result")
        sentences.append(f"Then {text[0].lower()}{text[1:]}")
    return " ".join(sentences)


def _example(name: str, steps: tuple[Step, ...], arguments: Arguments) -> str:
    """Return a doctest for the docstring, or nothing if it is long."""
    call = f"{name}({', '.join(map(repr, arguments))})"
    result = repr(_function(steps)(arguments))
    if len(call) + len(result) > LONGEST_EXAMPLE:
        return ""
    return f"\n\n    >>> {call}\n    {result}\n    "
