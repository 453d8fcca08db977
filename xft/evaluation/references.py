"""Collects the hashes of evaluation problems that no training row may hold."""

import ast
from collections.abc import Iterator

from xft.data.contamination import Fingerprint, read_shipped
from xft.evaluation.problems import Problem, ProblemSet, load_problems, split_mbpp
from xft.hub.named_sets import NAMED_SETS


def load_references(names_or_files: list[str]) -> tuple[list[Fingerprint], dict[str, str]]:
    """The fingerprints of some sets of problems, and each set's SHA-256 by its label.

    Those of humaneval and mbpp come with the package. Raises UserError if a file is wrong.
    """
    collected, hashes = [], {}
    for name in names_or_files:
        if chosen := NAMED_SETS.get(name):
            collected += read_shipped(name)
            hashes[name] = chosen.sha256
        else:
            problems = load_problems(name)
            collected += fingerprints(problems)
            hashes[problems.name] = problems.sha256
    return collected, hashes


def fingerprints(problems: ProblemSet) -> Iterator[Fingerprint]:
    """The fingerprints of the docstring and the canonical solution of each problem."""
    for problem in problems.problems:
        is_mbpp = problems.form == "mbpp"
        docstring = split_mbpp(problem)[0].removesuffix(".") if is_mbpp else _docstring(problem)
        yield Fingerprint.of(problem.task_id, "docstring", docstring)
        yield Fingerprint.of(problem.task_id, "solution", problem.canonical_solution)


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
