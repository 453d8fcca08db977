"""Compilers and runtimes that jobs need, for problems whose tests are a program."""

from collections.abc import Iterable
from pathlib import Path

from xft.common.errors import collecting_errors
from xft.dag.node import Node
from xft.evaluation.forms import programs
from xft.evaluation.languages import find_toolchains
from xft.evaluation.problem_sets import load_problems
from xft.store.store import is_whole

JUDGES = ("ground_truth", "eval")  # steps that run programs


def missing_toolchains(nodes: Iterable[Node]) -> list[str]:
    """What this machine lacks for those of the nodes that are to be made, a sentence for each.

    Files that are not on this machine are left out: the job tells what they need.
    """
    files = {
        (path, node.config.evaluation.limit): None
        for node in nodes
        if node.step in JUDGES and not is_whole(node.entry)
        for item in node.inputs
        if item.name == "problems" and item.node is None  # a file of the user's
        for path in item.paths
    }
    faults = []
    for path, limit in files:
        with collecting_errors(faults):
            problem_set = load_problems(path).first(limit) if Path(path).exists() else None
            if problem_set and problem_set.form is programs:
                find_toolchains((p.language, p.prompt + p.tests) for p in problem_set.problems)
    return list(dict.fromkeys("\n".join(faults).splitlines()))
