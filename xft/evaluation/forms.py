"""The forms of problems, and how files of problems are read: named sets and the user's own."""

import ast
from pathlib import Path

from xft.common.errors import UserError, did_you_mean, errors_at
from xft.common.json_files import read_rows
from xft.config.sections import dataset_name
from xft.data.prompt_templates import COMPLETION, Template
from xft.evaluation import problems
from xft.evaluation.languages import CODES, find_language
from xft.evaluation.problems import DataSet, Problem, ProgramProblem
from xft.evaluation.prompts import FENCE, TaskPrompt, ends_of_code, instructed, with_code
from xft.hub.named_sets import NAMED_SETS, RELEASED, NamedSet, unpacked_sha256

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
# A base model's completion ends before these. An MBPP prompt holds no function, so helpers and
# imports at the top level are part of the solution.
STOPS_IN_MODULE = ("\nif ", "\nassert ", "\nprint(", '\n"""', FENCE)
AFTER_FUNCTION = ("\ndef ", "\nasync def ", "\nclass ", "\n@", "\nimport ", "\nfrom ", "\n#")
STOPS_IN_FUNCTION = AFTER_FUNCTION + STOPS_IN_MODULE


class CallForm:
    """Problems whose tests are calls of a function: a `Form`. Their texts are the docstring and the
    canonical solution.
    """

    name = "calls"

    def parse(self, fields: object) -> Problem:
        return problems.parse_calls(fields)

    def prompt(self, problem: Problem, template: Template) -> TaskPrompt:
        if template == COMPLETION:
            stops = STOPS_IN_MODULE if problem.is_mbpp else STOPS_IN_FUNCTION
            return TaskPrompt(problem.task_id, problem.prompt, problem.prompt, stops, template)
        if not problem.is_mbpp:
            return instructed(problem, template, "python")
        request, assertion = problems.split_mbpp(problem)
        request = f"{request} Your code should satisfy the following assertion:"
        instruction = with_code(request, "python", assertion)
        stops = ends_of_code(template)
        start = f"{FENCE}python"
        return TaskPrompt(problem.task_id, instruction, "", stops, template, start)

    def texts(self, problem: Problem) -> dict[str, str]:
        if problem.is_mbpp:
            request, _ = problems.split_mbpp(problem)
            text = request.removesuffix(".")
        else:
            text = _docstring(problem)
        return {"docstring": text, "solution": problem.canonical_solution}


class ProgramForm:
    """Problems whose tests are a program: a `Form`. A tuned model's response begins with the
    problem's own text.
    """

    name = "programs"

    def parse(self, fields: object) -> ProgramProblem:
        return problems.validated_row(ProgramProblem, fields)

    def prompt(self, problem: ProgramProblem, template: Template) -> TaskPrompt:
        stops = tuple(problem.stop_tokens)
        if template == COMPLETION:
            code = problem.prompt
            return TaskPrompt(problem.task_id, code, code, (*stops, FENCE), template)
        fence = find_language(problem.language).fence
        return instructed(problem, template, fence, stops)

    def texts(self, problem: ProgramProblem) -> dict[str, str]:
        texts = {"prompt": problem.prompt}
        if problem.canonical_solution:
            texts["solution"] = problem.canonical_solution
        return texts


CALLS = CallForm()
PROGRAMS = ProgramForm()


def load_problems(name_or_file: str) -> DataSet:
    """Read a named set, or a `.jsonl`, `.jsonl.gz` or `.parquet` file of problems.

    The first row decides which form all have. Raises UserError if there is no such set or file, or
    if a row is bad. The message names the line and the key.
    """
    chosen = NAMED_SETS.get(name_or_file)
    file = _locate_named(chosen) if chosen else _locate_file(name_or_file)
    sha256 = unpacked_sha256(file)  # first: it bounds what is read
    rows = list(read_rows(file))
    if not rows:
        raise UserError(f"{file} holds no problem")
    is_program = isinstance(rows[0][1], dict) and "tests" in rows[0][1]
    form = PROGRAMS if is_program else CALLS
    parsed = []
    lines = {}
    repeated = set()
    for number, fields in rows:
        with errors_at(f"{file}, line {number}"):
            problem = form.parse(fields)
        if problem.task_id in lines:
            repeated.add(problem.task_id)
        parsed.append(problem)
        lines[problem.task_id] = number
    if repeated:
        raise UserError(f"{file} holds a task_id more than once: {', '.join(sorted(repeated))}")
    return DataSet(dataset_name(name_or_file), form, file, sha256, tuple(parsed), lines)


def _locate_named(chosen: NamedSet) -> Path:
    file = chosen.find()
    if file is None:
        raise UserError(
            f"the data set {chosen.name} ({chosen}) is not on this machine. Fetch it with "
            f"python -m workflow_scripts.fetch_problems --dataset {chosen.name} "
            f"--out {chosen.file} and name that file. {chosen.advice}"
        )
    return file


def _locate_file(name: str) -> Path:
    file = Path(name)
    if not file.exists() and not file.is_symlink():
        raise UserError(
            f"{name} is neither a data set ({', '.join(RELEASED)}, multipl-e/NAME) nor a file"
            f"{hint_of_set(name)}"
        )
    if not name.endswith(SUFFIXES):
        raise UserError(f"{name}: the name of a file of problems ends in {' or '.join(SUFFIXES)}")
    return file


def hint_of_set(name: str) -> str:
    """The end of a message about an unknown set: a known one, if that was probably meant."""
    source, _, language = Path(name.lower()).name.rpartition("-")
    translated = f"multipl-e/{source}-{CODES.get(language, language)}"
    meant = translated if translated in NAMED_SETS else name
    return did_you_mean(meant, NAMED_SETS)


def _docstring(problem: Problem) -> str:
    """The docstring of the function to write, as in the source; else the prompt."""
    try:
        tree = ast.parse(problem.prompt)
    except SyntaxError:
        return problem.prompt
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef) and node.name == problem.entry_point
        if is_function and ast.get_docstring(node) is not None:
            source = ast.get_source_segment(problem.prompt, node.body[0])
            return source.lstrip("rRuU").strip("\"'")
    return problem.prompt
