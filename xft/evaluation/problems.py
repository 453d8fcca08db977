"""Sets of problems, and the problems of each form, as their rows say them."""

import re
import symtable
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Protocol, TypeVar

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from xft.common.errors import UserError, described
from xft.data.instruction_rows import HALF_PAIR, SURROGATE
from xft.evaluation.languages import CODES, find_language

ORIGINAL_FORM = (
    "base_input is missing. This looks like HumanEval's original form, or HumanEval-X's. Write "
    'test and its call of check into tests, "{}" into language, and into stop_tokens the texts '
    "before which an answer ends (docs/evaluation.md). HumanEval's own problems are the data set {}"
)
EXAMPLE_OF_CALLS = (
    "base_input and plus_input are lists of calls, each the list of the function's arguments, such "
    "as [[1, 2], 3] for f([1, 2], 3)"
)
MBPP_TASK_ID = re.compile(r"Mbpp/[0-9]+")
# MBPP+ writes no calls as {}.
Calls = Annotated[list[list], pydantic.BeforeValidator(lambda calls: [] if calls == {} else calls)]
# HumanEval's and MBPP's problems in MultiPL-E's names, such as mbpp_3_is_not_prime.
ORIGINAL = re.compile(r"(HumanEval|mbpp)_(\d+)_")

Kind = TypeVar("Kind", bound=BaseModel)


class Problem(BaseModel):
    """A problem whose tests are calls of a function with their arguments: EvalPlus's form."""

    model_config = ConfigDict(frozen=True, strict=True)

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    contract: str
    base_input: Calls
    plus_input: Calls
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    unit: ClassVar[None] = None  # the problem is one by itself

    @property
    def canonical_program(self) -> str:
        return self.prompt + self.canonical_solution

    @property
    def has_extra_tests(self) -> bool:
        return bool(self.plus_input)

    @property
    def is_mbpp(self) -> bool:
        """Whether EvalPlus reads the calls and the prompt as MBPP's."""
        return bool(MBPP_TASK_ID.fullmatch(self.task_id))


def _problem_of(original: str) -> str:
    """The task id of HumanEval or MBPP that MultiPL-E translated, if there is one."""
    match = ORIGINAL.search(original)
    if match is None:
        return original
    source = match[1].replace("mbpp", "Mbpp")
    return f"{source}/{match[2]}"


class ProgramProblem(BaseModel):
    """A problem whose tests are a program, such as MultiPL-E's.

    The program is the prompt, the completion, a newline and the tests. It passes if its tests run
    to their end and it ends with status 0, in time.

    unit: the problem that several rows share, such as one in several languages.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    task_id: str = Field(validation_alias=AliasChoices("task_id", "name"))
    prompt: str
    tests: Annotated[str, Field(pattern=r"\S")]
    language: Annotated[str, pydantic.AfterValidator(lambda name: find_language(name).name)]
    stop_tokens: list[Annotated[str, Field(min_length=1)]]
    canonical_solution: str | None = None
    unit: Annotated[str, pydantic.AfterValidator(_problem_of)] | None = Field(
        None, validation_alias=AliasChoices("unit", "original")
    )
    has_extra_tests: ClassVar[bool] = False

    @property
    def canonical_program(self) -> str:
        return self.prompt + (self.canonical_solution or "")

    def program(self, solution: str) -> str:
        """The program that judges a solution."""
        return f"{solution}\n{self.tests}"


class Form(Protocol):
    """How problems of a form are read and asked. `scorers` opens what runs and judges solutions.

    name: in results.
    """

    name: str

    def parse(self, fields: object) -> Problem | ProgramProblem:
        """The problem of a row. Raises UserError as `validated_row`."""

    def prompt(self, problem, template):
        """The text that a model continues."""

    def texts(self, problem) -> dict[str, str]:
        """The texts that no training row may hold, by kind."""


@dataclass(frozen=True)
class DataSet:
    """The problems of a file.

    name: the label in results.
    form: of `forms`.
    sha256: of the unpacked content.
    lines: the number of each problem's line in the file, by its task id.
    left_out: the task ids of problems that the configuration leaves out, not for a limit.
    """

    name: str
    form: Form
    file: Path
    sha256: str
    problems: tuple
    lines: dict[str, int]
    left_out: tuple[str, ...] = ()

    def first(self, limit: int | None) -> "DataSet":
        """The set with only its first `limit` problems (None: all)."""
        return replace(self, problems=self.problems[:limit])

    def without(self, task_ids: Collection[str]) -> "DataSet":
        """The set without some problems. Raises UserError if it has no others."""
        kept = tuple(problem for problem in self.problems if problem.task_id not in task_ids)
        if not kept:
            raise UserError(f"{self.file}: evaluation.exclude and too_long leave no problem")
        left_out = tuple(p.task_id for p in self.problems if p.task_id in task_ids)
        return replace(self, problems=kept, left_out=self.left_out + left_out)


def split_mbpp(problem: Problem) -> tuple[str, str]:
    """The request (with a full stop at its end) and the assertion in an MBPP prompt's docstring.

    Raises UserError if there is no such docstring.
    """
    text = problem.prompt
    docstring = text[text.find('"""') + 3 : text.rfind('"""')]
    request, keyword, rest = docstring.partition("assert")
    if text.count('"""') < 2 or not keyword:
        raise UserError(f"{problem.task_id}: the prompt is not a docstring with an assertion")
    request = request.strip()
    if not request.endswith("."):
        request += "."
    assertion = (keyword + rest).strip()
    return request, assertion


def validated_row(kind: type[Kind], fields: object) -> Kind:
    """The problem of a row.

    fields: the values of the row, or the ValueError of a bad line. Raises UserError.
    """
    if isinstance(fields, ValueError):
        raise UserError(f"not JSON: {fields}")
    try:
        problem = kind.model_validate(fields)
    except ValidationError as error:
        raise UserError(described(error)) from None
    for key, value in problem:
        if isinstance(value, str) and SURROGATE.search(value):
            raise UserError(f"{key} {HALF_PAIR}")
    return problem


def parse_calls(fields: object) -> Problem:
    """The problem of a row in EvalPlus's form, as `validated_row`."""
    if isinstance(fields, dict) and "test" in fields and "base_input" not in fields:
        prefix, _, _ = str(fields.get("task_id")).partition("/")
        language = CODES.get(prefix.lower(), "py")
        named_set = "humaneval" if language == "py" else f"multipl-e/humaneval-{language}"
        raise UserError(ORIGINAL_FORM.format(language, named_set))
    try:
        problem = validated_row(Problem, fields)
    except UserError as error:
        hint = f". {EXAMPLE_OF_CALLS}" if "_input" in str(error) else ""
        raise UserError(f"{error}{hint}") from None
    if not problem.base_input and not problem.plus_input:
        raise UserError("base_input and plus_input hold no call, so any solution would pass")
    _check_entry_point(problem)
    return problem


def _check_entry_point(problem: Problem) -> None:
    """Raise UserError unless the canonical program defines the entry point."""
    name = problem.entry_point
    program = problem.canonical_program
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes
            symbols = symtable.symtable(program, "the program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno} of the program)" if getattr(error, "lineno", 0) else ""
        reason = getattr(error, "msg", None) or error
        raise UserError(
            f"prompt and canonical_solution are not valid Python: {reason}{line}"
        ) from None
    defined = {
        symbol.get_name()
        for symbol in symbols.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }
    if name not in defined and "import *" not in program:
        raise UserError(f"prompt and canonical_solution define no {name}, which entry_point names")
