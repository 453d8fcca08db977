"""Problems whose tests are calls of a function with their arguments: EvalPlus's form."""

import ast

from xft.data.prompt_templates import COMPLETION, Template
from xft.evaluation.problems import Problem, parse, split_mbpp
from xft.evaluation.prompts import FENCE, TaskPrompt, ends_of_code, instructed, with_code

__all__ = ["parse", "prompt", "texts"]
# A base model's completion ends before these. An MBPP prompt holds no function, so helpers and
# imports at the top level are part of the solution.
STOPS_IN_MODULE = ("\nif ", "\nassert ", "\nprint(", '\n"""', FENCE)
STOPS_IN_FUNCTION = (
    *("\ndef ", "\nasync def ", "\nclass ", "\n@", "\nimport ", "\nfrom ", "\n#"),
    *STOPS_IN_MODULE,
)


def prompt(problem: Problem, template: Template) -> TaskPrompt:
    """The prompt for a problem."""
    if template == COMPLETION:
        stops = STOPS_IN_MODULE if problem.is_mbpp else STOPS_IN_FUNCTION
        return TaskPrompt(problem.task_id, problem.prompt, problem.prompt, stops, template)
    if not problem.is_mbpp:
        return instructed(problem, template, "python")
    request, assertion = split_mbpp(problem)
    request = f"{request} Your code should satisfy the following assertion:"
    instruction, start = with_code(request, "python", assertion), f"{FENCE}python"
    stops = ends_of_code(template)
    return TaskPrompt(problem.task_id, instruction, "", stops, template, start)


def texts(problem: Problem) -> dict[str, str]:
    """What no training row may hold, by kind: the docstring and the canonical solution."""
    is_mbpp = problem.is_mbpp
    docstring = split_mbpp(problem)[0].removesuffix(".") if is_mbpp else _docstring(problem)
    return {"docstring": docstring, "solution": problem.canonical_solution}


def _docstring(problem: Problem) -> str:
    """The docstring of the function to write, as in the source; else the prompt."""
    try:
        tree = ast.parse(problem.prompt)
    except SyntaxError:
        return problem.prompt
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                return ast.get_source_segment(problem.prompt, first).lstrip("rRuU").strip("\"'")
    return problem.prompt
