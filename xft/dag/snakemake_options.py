"""Refuses options of Snakemake that would not do here what they promise, or would delete results.

docs/caching.md has a table of its options.
"""

import os
import re
from collections.abc import Iterable, Sequence
from shlex import quote

from xft.common.errors import UserError
from xft.dag.workflow_run import WorkflowRun
from xft.store.store import is_whole

# The options with which Snakemake runs no job, besides -n.
INSPECTS = re.compile(
    "-[DSlt]$|--(archive|cleanup|cm$|conda-c|container|d3dag|dag|delete|detailed|export|filegraph"
    "|generate|l[cipt]$|lint|list|lu$|print-comp|report|rulegraph|summary|touch|unlock)"
)


def check_storage(settings) -> None:
    """Raise UserError if Snakemake would keep files elsewhere. settings: of its storage."""
    if settings.default_storage_provider:
        raise UserError(
            "--default-storage-provider: Snakemake's own storage and cloud executors do not know "
            "the store. Run snakemake on each machine without it, and name a bucket in `publish` "
            "and `stores` (docs/sharing.md)"
        )


def runs_jobs(words: Sequence[str]) -> bool:
    """Whether Snakemake runs jobs with a command line without -n."""
    return not any(map(INSPECTS.match, words))


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
