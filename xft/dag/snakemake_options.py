"""What Snakemake's own options mean for artifacts in a store. docs/caching.md has a table."""

import os
import re
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import TextIO

from xft.common.errors import UserError
from xft.dag.run import WorkflowRun
from xft.store.job_records import Jobs
from xft.store.store import is_whole

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


def check_not_forced(settings, run: WorkflowRun) -> None:
    """Raise UserError if -R, -f or -F is given: a job that finds its entry whole makes nothing.

    settings: of Snakemake's graph.
    """
    if not (settings.forcerun or settings.forcetargets or settings.forceall):
        return
    named = with_entries({*settings.forcerun, *settings.targets}, run)
    entries = [
        str(node.entry)
        for node in run.experiment.known
        if (node.step in named or str(node.entry) in named) and is_whole(node.entry)
    ]
    shown = ", ".join(entries) or f"which `readlink -f {run.results}/NAME` shows"
    raise UserError(
        "-R, -f, -F: an artifact is made once. To make it again, name it without such an option, "
        f"after deleting its entry: {shown}. To make all again, name another store"
    )


def with_entries(words: Iterable[str], run: WorkflowRun) -> set[str]:
    """Some words, and the entries of those that are names in the results folder."""
    known, results = run.experiment.by_name, os.path.normpath(run.results)
    names = (os.path.relpath(os.path.normpath(word), results) for word in words)
    return {*words, *(str(known[name].entry) for name in names if name in known)}


def name_nodes(stream: TextIO, jobs: Jobs) -> None:
    """Let a stream write names of artifacts in place of digests, in a graph of jobs."""
    write = stream.write

    def label(match: re.Match) -> str:
        rule, between, digest = match.groups()
        name = jobs[digest].name.replace('"', r"\"")
        return name if name == rule else f"{rule}{between}{name}"

    stream.write = lambda text: write(NODE.sub(label, text))
