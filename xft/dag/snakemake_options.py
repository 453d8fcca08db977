"""What Snakemake's own options mean for artifacts in a store. docs/caching.md has a table."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TextIO

from xft.common.errors import UserError
from xft.common.progress import say
from xft.dag.node import Node
from xft.dag.run import WorkflowRun
from xft.store.plan import Jobs
from xft.store.store import again, is_whole, partial

NODE = re.compile(r"(\w+)(\\n| - )digest: ([0-9a-f]+)")  # of a graph in dot, or in mermaid


def check_options(words: Sequence[str], run: WorkflowRun) -> None:
    """Raise UserError if a command line would delete what others need."""
    if any(word.startswith("--delete-a") for word in words):
        store = str(run.store.root)
        raise UserError(
            f"--delete-all-output: other configurations may need artifacts in {store}. Delete "
            f"{run.results} instead; `xft gc {quote(store)}` then removes what no other results "
            "folder needs. Nothing was changed."
        )


def copy_of(node: Node) -> Node:
    """An artifact as it is made again."""
    return replace(node, entry=again(node.entry))


class Forced:
    """What -R, -F and -f force. Of whole entries copies are made beside them, and compared.

    Snakemake would copy the whole entry, start its job, and put the copy in its place if the job
    fails. So its own graph forces nothing any more. It also learns which entries --omit-from names.
    """

    def __init__(self, run: WorkflowRun, graph):
        """graph: Snakemake's, which is being built."""
        self.run = run
        self.copies: dict[Path, Node] = {}
        self.steps = {Path(file).parent.name for rule in graph.forcerules for file in rule.output}
        self.files = set(map(os.path.normpath, graph.forcefiles))
        if (self.steps or self.files) and not any(map(self._is_forced, run.experiment.known)):
            say("The store holds none of the forced results, so none is made again and compared.")
        graph.forcerules.clear()
        graph.forcefiles.clear()
        omitted = set(map(os.path.normpath, graph.omitfiles))
        nodes = filter(lambda node: self._is_named(node, omitted), run.experiment.known)
        graph.omitfiles.update(str(node.entry) for node in nodes)

    def copies_of(self, nodes: Iterable[Node]) -> list[str]:
        """The places of copies of those of some artifacts that are forced and whole.

        If the run has begun, copies of earlier runs are removed. Raises UserError if one of their
        jobs still works.
        """
        found = [copy_of(node) for node in nodes if self._is_forced(node)]
        new = {copy.entry: copy for copy in found if copy.entry not in self.copies}
        if self.run.begun:
            self.run.store.check_idle({entry: copy.name for entry, copy in new.items()})
            for entry in new:
                for folder in (entry, partial(entry)):
                    shutil.rmtree(folder, ignore_errors=True)
        self.copies |= new
        return [str(copy.entry) for copy in found]

    def end(self) -> None:
        """Remove the copies. Those that differ are not whole, and stay."""
        for entry in self.copies:
            shutil.rmtree(entry, ignore_errors=True)

    def _is_forced(self, node: Node) -> bool:
        is_named = node.step in self.steps or self._is_named(node, self.files)
        return is_named and is_whole(node.entry)

    def _is_named(self, node: Node, words: set[str]) -> bool:
        """Whether a command line names an artifact: by its entry, or in the results folder."""
        names = (os.path.normpath(self.run.results / name) for name in node.names)
        return bool(words) and not words.isdisjoint([str(node.entry), *names])


def name_nodes(stream: TextIO, jobs: Jobs) -> None:
    """Let a stream write names of artifacts in place of digests, in a graph of jobs."""
    write = stream.write

    def label(found: re.Match) -> str:
        rule, between, digest = found.groups()
        name = jobs[digest].name.replace('"', r"\"")
        return name if name == rule else f"{rule}{between}{name}"

    stream.write = lambda text: write(NODE.sub(label, text))
