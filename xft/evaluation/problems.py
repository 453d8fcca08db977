"""Reads and checks problem sets in EvalPlus's form: HumanEval+, MBPP+ and the user's own files."""

import hashlib
import io
import json
import re
import symtable
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xft.common.errors import UserError, did_you_mean
from xft.config.sections import problem_label
from xft.hub.named_sets import NAMED_SETS, NamedSet, unpacked

SUFFIXES = (".jsonl", ".jsonl.gz")
REQUIRED_KEYS = {
    "task_id": str,
    "prompt": str,
    "entry_point": str,
    "canonical_solution": str,
    "contract": str,
    "base_input": list,
    "plus_input": (list, dict),  # MBPP+ writes no inputs as {}
    "atol": (int, float),
}
INPUT_KEYS = ("base_input", "plus_input")
ORIGINAL_FORM = (
    "base_input is missing. This looks like HumanEval's original form, whose test is a program. "
    "Problems are read in EvalPlus's form: base_input is a list of calls, each the list of its "
    'arguments. Write the calls of test there, and set plus_input to [], contract to "" and atol '
    "to 0. For HumanEval's own problems, name the data set humaneval"
)
MAX_DEPTH = 100
DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep"
MBPP_TASK_ID = re.compile(r"Mbpp/[0-9]+")


@dataclass(frozen=True)
class Problem:
    """A problem. row: its line in the file, in EvalPlus's form."""

    task_id: str
    prompt: str
    entry_point: str
    row: str
    canonical_solution: str = ""


@dataclass(frozen=True)
class ProblemSet:
    """The problems of a file.

    name: the label in results. form: "humaneval" or "mbpp"; it decides how EvalPlus reads and
    judges the problems. sha256: of the unpacked content.
    """

    name: str
    form: str
    file: Path
    sha256: str
    problems: tuple[Problem, ...]

    def first(self, limit: int | None) -> "ProblemSet":
        """The set with only its first `limit` problems (None: all)."""
        return replace(self, problems=self.problems[:limit])


def load_problems(name_or_file: str) -> ProblemSet:
    """Read `humaneval`, `mbpp`, or a `.jsonl` or `.jsonl.gz` file of problems.

    Raises UserError if there is no such set or file, or if a row is bad: it lacks a key, has no
    calls, or does not define its entry point. The message names the line and the key.
    """
    file = _locate(name_or_file)
    content = unpacked(file)
    problems = tuple(_parse(row, where) for row, where in _rows(content, file))
    return ProblemSet(
        name=problem_label(name_or_file),
        form=_form(problems, file),
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        problems=problems,
    )


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


def _locate(name_or_file: str) -> Path:
    chosen = NAMED_SETS.get(name_or_file)
    return _locate_named(chosen) if chosen else _locate_file(name_or_file)


def _locate_named(chosen: NamedSet) -> Path:
    found = chosen.find()
    if found is None:
        name = chosen.name
        instead = " in place of the file there" if chosen.cached.is_file() else ""
        raise UserError(
            f"the data set {name} ({chosen}) is not on this machine. Fetch it with "
            f"python -m workflow_scripts.fetch_problems --dataset {name} --out {name}.jsonl and "
            f"name that file, or put it, unpacked, at {chosen.cached}{instead}, or set "
            f"{chosen.variable} to the path of its .jsonl or .jsonl.gz file"
        )
    return found


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


def _rows(content: bytes, file: Path) -> Iterator[tuple[str, str]]:
    """The rows of a file that are not blank, each with its place."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    # Not splitlines: a JSON string may hold other line separators.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield line.strip(), f"{file}, line {number}"


def _parse(row: str, where: str) -> Problem:
    fields = _fields(row, where)
    if "test" in fields and "base_input" not in fields:
        raise UserError(f"{where}: {ORIGINAL_FORM}")
    for key, kind in REQUIRED_KEYS.items():
        if key not in fields:
            raise UserError(f"{where}: key {key} is missing")
        if not isinstance(fields[key], kind):
            raise UserError(f"{where}: {key} is of type {type(fields[key]).__name__}")
    if not fields["base_input"] and not fields["plus_input"]:
        raise UserError(
            f"{where}: base_input and plus_input hold no call, so any solution would pass"
        )
    for key in INPUT_KEYS:
        _check_calls(fields, key, where)
    _check_entry_point(fields, where)
    return Problem(
        fields["task_id"],
        fields["prompt"],
        fields["entry_point"],
        row,
        fields["canonical_solution"],
    )


def _fields(row: str, where: str) -> dict:
    """The object in a row."""
    try:
        fields = json.loads(row)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    except ValueError:  # Python reads integers of so many digits only on request
        digits = sys.get_int_max_str_digits()
        raise UserError(f"{where}: a number has more than {digits} digits") from None
    except RecursionError:
        raise UserError(f"{where}: {DEEP}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where}: must be an object")
    if _is_deep(fields):
        raise UserError(f"{where}: {DEEP}")
    return fields


def _is_deep(fields: dict) -> bool:
    """Whether lists and objects lie deeper in one another than `MAX_DEPTH`."""
    level = [fields]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, list | dict)]
    return bool(level)


def _check_calls(fields: dict, key: str, where: str) -> None:
    """Raise UserError unless the calls are lists of arguments."""
    place, calls = f"{where}: {fields['task_id']}", fields[key]
    if calls and isinstance(calls, dict):
        raise UserError(f"{place}: {key} is an object, but must be a list of calls")
    for number, call in enumerate(calls, start=1):
        if not isinstance(call, list):
            raise UserError(
                f"{place}: call {number} in {key} is of type {type(call).__name__}, but must be "
                "the list of the function's arguments, such as [[1, 2], 3] for f([1, 2], 3)"
            )


def _check_entry_point(fields: dict, where: str) -> None:
    """Raise UserError unless the canonical program defines the entry point."""
    name, program = fields["entry_point"], fields["prompt"] + fields["canonical_solution"]
    try:
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes
            symbols = symtable.symtable(program, "the program", "exec").get_symbols()
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno} of the program)" if getattr(error, "lineno", 0) else ""
        reason = getattr(error, "msg", None) or error
        raise UserError(
            f"{where}: prompt and canonical_solution are not valid Python: {reason}{line}"
        ) from None
    defined = {symbol.get_name() for symbol in symbols if _is_defined(symbol)}
    if name not in defined and "import *" not in program:
        raise UserError(
            f"{where}: prompt and canonical_solution define no {name}, which entry_point names"
        )


def _is_defined(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported()


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
