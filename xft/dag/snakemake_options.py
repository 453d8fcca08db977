"""What Snakemake's own options mean for artifacts in a store. docs/caching.md has a table."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TextIO

from xft.common.errors import UserError
from xft.common.progress import say
from xft.dag.run import WorkflowRun
from xft.dag.wanted import Wanted
from xft.store.plan import Jobs
from xft.store.store import again, is_whole, partial

OF_COMMANDS = {"options", "start", "besides", "file", "target"}  # resources that commands hold
NODE = re.compile(r"(\w+)(\\n| - )digest: ([0-9a-f]+)")  # of a graph in dot, or in mermaid


def check_options(words: Sequence[str], resources: Mapping, run: WorkflowRun) -> None:
    """Raise UserError if a command line would delete what others need, or change what a job does.

    resources: those that the user sets, by rule and name.
    """
    for rule, given in resources.items():
        if names := sorted(given.keys() & OF_COMMANDS):
            raise UserError(
                f"--set-resources {rule}:{names[0]}: it follows from the configuration. Change that"
            )
    if any(word.startswith("--delete-a") for word in words):
        store = str(run.store.root)
        raise UserError(
            f"--delete-all-output: other configurations may need artifacts in {store}. Delete "
            f"{run.results} instead; `xft gc {quote(store)}` then removes what no other results "
            "folder needs. Nothing was changed."
        )


def copy_of(part: Wanted) -> Wanted:
    """An artifact as it is made again."""
    return replace(part, entry=again(part.entry))


class Forced:
    """What -R, -F and -f force. Of whole entries copies are made beside them, and compared.

    Snakemake would copy the whole entry, start its job, and put the copy in its place if the job
    fails. So its own graph forces nothing any more. It also learns which entries --omit-from names.
    """

    def __init__(self, run: WorkflowRun, graph):
        """graph: Snakemake's, which is being built."""
        self.run = run
        self.copies: dict[Path, Wanted] = {}
        self.steps = {Path(file).parent.name for rule in graph.forcerules for file in rule.output}
        self.files = set(map(os.path.normpath, graph.forcefiles))
        if (self.steps or self.files) and not any(map(self._is_forced, run.experiment.known)):
            say("The store holds none of the forced results, so none is made again and compared.")
        graph.forcerules.clear()
        graph.forcefiles.clear()
        omitted = set(map(os.path.normpath, graph.omitfiles))
        parts = filter(lambda part: self._is_named(part, omitted), run.experiment.known)
        graph.omitfiles.update(str(part.entry) for part in parts)

    def copies_of(self, parts: Iterable[Wanted]) -> list[str]:
        """The places of copies of those of some artifacts that are forced and whole.

        If the run has begun, copies of earlier runs are removed. Raises UserError if one of their
        jobs still works.
        """
        found = [copy_of(part) for part in parts if self._is_forced(part)]
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

    def _is_forced(self, part: Wanted) -> bool:
        is_named = part.rule in self.steps or self._is_named(part, self.files)
        return is_named and is_whole(part.entry)

    def _is_named(self, part: Wanted, words: set[str]) -> bool:
        """Whether a command line names an artifact: by its entry, or in the results folder."""
        names = (os.path.normpath(self.run.results / name) for name in part.names)
        return bool(words) and not words.isdisjoint([str(part.entry), *names])


def name_nodes(stream: TextIO, jobs: Jobs) -> None:
    """Let a stream write names of artifacts in place of digests, in a graph of jobs."""
    write = stream.write

    def label(found: re.Match) -> str:
        rule, between, digest = found.groups()
        name = jobs[digest].name.replace('"', r"\"")
        return name if name == rule else f"{rule}{between}{name}"

    stream.write = lambda text: write(NODE.sub(label, text))
