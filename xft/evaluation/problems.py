"""Reads and checks problem sets in EvalPlus's form: HumanEval+, MBPP+ and the user's own files."""

import re
import symtable
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from xft.common.errors import UserError, described, did_you_mean
from xft.common.json_lines import read_json_lines
from xft.config.sections import problem_label
from xft.data.faults import HALF_PAIR, SURROGATE
from xft.hub.named_sets import NAMED_SETS, NamedSet, unpacked_sha256

SUFFIXES = (".jsonl", ".jsonl.gz")
ORIGINAL_FORM = (
    "base_input is missing. This looks like HumanEval's original form, whose test is a program. "
    "Problems are read in EvalPlus's form: base_input is a list of calls, each the list of its "
    'arguments. Write the calls of test there, and set plus_input to [], contract to "" and atol '
    "to 0. For HumanEval's own problems, name the data set humaneval"
)
CALLS = (
    "base_input and plus_input are lists of calls, each the list of the function's arguments, such "
    "as [[1, 2], 3] for f([1, 2], 3)"
)
MBPP_TASK_ID = re.compile(r"Mbpp/[0-9]+")
# MBPP+ writes no calls as {}.
Calls = Annotated[list[list], BeforeValidator(lambda calls: [] if calls == {} else calls)]


class Problem(BaseModel):
    """A problem in EvalPlus's form."""

    model_config = ConfigDict(frozen=True, strict=True)

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    contract: str
    base_input: Calls
    plus_input: Calls
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def canonical_program(self) -> str:
        return self.prompt + self.canonical_solution


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a file.

    name: the label in results.
    form: "humaneval" or "mbpp"; it decides how EvalPlus reads and judges the problems.
    sha256: of the unpacked content.
    lines: the number of each problem's line, by its task id.
    """

    name: str
    form: str
    file: Path
    sha256: str
    problems: tuple[Problem, ...]
    lines: dict[str, int]

    def first(self, limit: int | None) -> "ProblemSet":
        """The set with only its first `limit` problems (None: all)."""
        return replace(self, problems=self.problems[:limit])


def load_problems(name_or_file: str) -> ProblemSet:
    """Read `humaneval`, `mbpp`, or a `.jsonl` or `.jsonl.gz` file of problems.

    Raises UserError if there is no such set or file, or if a row is bad: it lacks a key, has no
    calls, or does not define its entry point. The message names the line and the key.
    """
    chosen = NAMED_SETS.get(name_or_file)
    file = _locate_named(chosen) if chosen else _locate_file(name_or_file)
    sha256 = unpacked_sha256(file)  # first: it bounds what is read
    rows = [(n, _parse(fields, f"{file}, line {n}")) for n, fields in read_json_lines(file)]
    problems = tuple(problem for _, problem in rows)
    lines = {problem.task_id: number for number, problem in rows}
    form = _form(problems, file)
    return ProblemSet(problem_label(name_or_file), form, file, sha256, problems, lines)


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
    return request if request.endswith(".") else request + ".", (keyword + rest).strip()


def _locate_named(chosen: NamedSet) -> Path:
    file = chosen.find()
    if file is None:
        name = chosen.name
        instead = " in place of the file there" if chosen.cached.is_file() else ""
        raise UserError(
            f"the data set {name} ({chosen}) is not on this machine. Fetch it with "
            f"python -m workflow_scripts.fetch_problems --dataset {name} --out {name}.jsonl and "
            f"name that file, or put it, unpacked, at {chosen.cached}{instead}, or set "
            f"{chosen.variable} to the path of its .jsonl or .jsonl.gz file"
        )
    return file


def _locate_file(name: str) -> Path:
    file = Path(name)
    if not file.exists() and not file.is_symlink():
        raise UserError(
            f"{name} is neither a data set ({', '.join(NAMED_SETS)}) nor a file"
            f"{did_you_mean(name, NAMED_SETS)}"
        )
    if not name.endswith(SUFFIXES):
        raise UserError(f"{name}: the name of a file of problems ends in {' or '.join(SUFFIXES)}")
    return file


def _parse(fields: object, where: str) -> Problem:
    """The problem of a row.

    fields: the values of the row, or the ValueError of a bad line.
    """
    if isinstance(fields, ValueError):
        raise UserError(f"{where}: not JSON: {fields}")
    if isinstance(fields, dict) and "test" in fields and "base_input" not in fields:
        raise UserError(f"{where}: {ORIGINAL_FORM}")
    try:
        problem = Problem.model_validate(fields)
    except ValidationError as error:
        fault = described(error)
        hint = f". {CALLS}" if "_input" in fault else ""
        raise UserError(f"{where}: {fault}{hint}") from None
    for key, value in problem:
        if isinstance(value, str) and SURROGATE.search(value):
            raise UserError(f"{where}: {key} {HALF_PAIR}")
    if not problem.base_input and not problem.plus_input:
        raise UserError(
            f"{where}: base_input and plus_input hold no call, so any solution would pass"
        )
    _check_entry_point(problem, where)
    return problem


def _check_entry_point(problem: Problem, where: str) -> None:
    """Raise UserError unless the canonical program defines the entry point."""
    name, program = problem.entry_point, problem.canonical_program
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes
            symbols = symtable.symtable(program, "the program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno} of the program)" if getattr(error, "lineno", 0) else ""
        reason = getattr(error, "msg", None) or error
        raise UserError(
            f"{where}: prompt and canonical_solution are not valid Python: {reason}{line}"
        ) from None
    defined = {s.get_name() for s in symbols.get_symbols() if s.is_assigned() or s.is_imported()}
    if name not in defined and "import *" not in program:
        raise UserError(
            f"{where}: prompt and canonical_solution define no {name}, which entry_point names"
        )


def _form(problems: tuple[Problem, ...], file: Path) -> str:
    """The form in which EvalPlus reads the problems. The task ids are checked too."""
    if not problems:
        raise UserError(f"{file} holds no problem")
    task_ids = [problem.task_id for problem in problems]
    if repeated := {task_id for task_id in task_ids if task_ids.count(task_id) > 1}:
        raise UserError(f"{file} holds a task_id more than once: {', '.join(sorted(repeated))}")
    from_mbpp = [bool(MBPP_TASK_ID.fullmatch(task_id)) for task_id in task_ids]
    if any(from_mbpp) and not all(from_mbpp):
        odd = task_ids[from_mbpp.index(False)]
        raise UserError(f"{file} mixes task ids of the form Mbpp/<number> with others: {odd}")
    return "mbpp" if all(from_mbpp) else "humaneval"
