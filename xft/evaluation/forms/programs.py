"""Problems whose tests are a program, such as MultiPL-E's.

The program is the prompt, the completion, a newline and the tests. It passes if its tests run to
their end and it ends with status 0, in time.
"""

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from xft.data.prompt_templates import COMPLETION, Template
from xft.evaluation.languages import find_language
from xft.evaluation.problems import validated_row
from xft.evaluation.prompts import FENCE, TaskPrompt, instructed

# HumanEval's and MBPP's problems in MultiPL-E's names, such as mbpp_3_is_not_prime.
ORIGINAL = re.compile(r"(HumanEval|mbpp)_(\d+)_")


def _problem_of(original: str) -> str:
    """The task id of HumanEval or MBPP that MultiPL-E translated, if there is one."""
    found = ORIGINAL.search(original)
    return f"{found[1].replace('mbpp', 'Mbpp')}/{found[2]}" if found else original


class Program(BaseModel):
    """A problem. unit: the problem that several rows share, such as one in several languages."""

    model_config = ConfigDict(frozen=True, strict=True)

    task_id: str = Field(validation_alias=AliasChoices("task_id", "name"))
    prompt: str
    tests: Annotated[str, Field(pattern=r"\S")]
    language: Annotated[str, AfterValidator(lambda name: find_language(name).name)]
    stop_tokens: list[Annotated[str, Field(min_length=1)]]
    canonical_solution: str | None = None
    unit: Annotated[str, AfterValidator(_problem_of)] | None = Field(
        None, validation_alias=AliasChoices("unit", "original")
    )
    has_extra_tests: ClassVar[bool] = False

    @property
    def canonical_program(self) -> str:
        return self.prompt + (self.canonical_solution or "")

    def program(self, solution: str) -> str:
        """The program that judges a solution."""
        return f"{solution}\n{self.tests}"


def fits(fields: object) -> bool:
    """Whether a row is of this form."""
    return isinstance(fields, dict) and "tests" in fields


def parse(fields: object) -> Program:
    """The problem of a row, as `validated_row`."""
    return validated_row(Program, fields)


def prompt(problem: Program, template: Template) -> TaskPrompt:
    """The prompt for a problem. A tuned model's response begins with the problem's own text."""
    stops = tuple(problem.stop_tokens)
    if template == COMPLETION:
        code = problem.prompt
        return TaskPrompt(problem.task_id, code, code, (*stops, FENCE), template)
    return instructed(problem, template, find_language(problem.language).fence, stops)


def texts(problem: Program) -> dict[str, str]:
    """What no training row may hold, by kind."""
    solution = problem.canonical_solution
    return {"prompt": problem.prompt} | ({"solution": solution} if solution else {})
