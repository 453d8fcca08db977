"""Collects the texts of evaluation problems that no training row may hold."""

import ast

from xft.common.errors import UserError
from xft.data.contamination import Reference
from xft.evaluation.problems import Problem, ProblemSet, load_problems, split_mbpp


def load_references(names_or_files: list[str]) -> tuple[list[Reference], dict[str, str]]:
    """The texts of all problems of some sets, and each set's SHA-256 by its label.

    Raises UserError if a set is not on this machine.
    """
    try:
        sets = [load_problems(name) for name in names_or_files]
    except UserError as error:
        raise UserError(
            f"{error}. The rows are cleaned of these problems. To clean them of other sets, or of "
            "none, set data.decontaminate_against"
        ) from None
    found = [_reference(problem, chosen) for chosen in sets for problem in chosen.problems]
    return found, {chosen.name: chosen.sha256 for chosen in sets}


def _reference(problem: Problem, problem_set: ProblemSet) -> Reference:
    if problem_set.form == "mbpp":
        docstring = split_mbpp(problem)[0].removesuffix(".")
    else:
        docstring = _docstring(problem)
    texts = {"docstring": docstring, "solution": problem.canonical_solution}
    return Reference(problem.task_id, texts)


def _docstring(problem: Problem) -> str:
    """The docstring of the function to write, as in the source; the prompt if there is none."""
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
