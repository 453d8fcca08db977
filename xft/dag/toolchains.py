"""Compilers and runtimes that jobs need, for problems whose tests are a program."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from xft.common.errors import collecting_errors
from xft.dag.node import Node
from xft.evaluation.forms import PROGRAMS, load_problems
from xft.evaluation.languages import MULTIPL_E_LOADS, find_toolchains
from xft.hub.named_sets import RELEASED, TRANSLATED
from xft.store.store import is_whole

JUDGES = ("ground_truth", "eval")  # steps that run programs


def missing_toolchains(nodes: Iterable[Node]) -> list[str]:
    """What this machine lacks for those of the nodes that are to be made, a sentence for each.

    Files that are not on this machine are left out: the job tells what they need.
    """
    sets = {
        (name, node.config.evaluation.limit): None
        for node in nodes
        if node.step in JUDGES and not is_whole(node.entry)
        for item in node.inputs
        if item.name == "problems"
        for name in ([item.node.options["dataset"]] if item.node else item.paths)
    }
    faults = []
    for name, limit in sets:
        with collecting_errors(faults):
            find_toolchains(_programs(name, limit))
    return list(dict.fromkeys("\n".join(faults).splitlines()))


def _programs(name: str, limit: int | None) -> Iterator[tuple[str, str]]:
    """The language and the text of each program, as far as they are known before the run."""
    if name in TRANSLATED:
        language = TRANSLATED[name].language
        yield language, MULTIPL_E_LOADS.get(language, "")
    elif name not in RELEASED and Path(name).exists():
        problem_set = load_problems(name).first(limit)
        if problem_set.form is PROGRAMS:
            yield from ((p.language, p.prompt + p.tests) for p in problem_set.problems)
