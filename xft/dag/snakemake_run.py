"""A run as Snakemake sees it: when it begins, its options, what the screen shows, and how it ends.

It begins with the first input that Snakemake asks for. `onstart` comes too late: the graph is built
by then, and what the store holds decided about it, so the store has to be locked before. Snakemake
also calls no handler if nothing is to be done, or in a dry run, which shows warnings too. Its log
file in .snakemake/log keeps what the screen leaves out. docs/caching.md has a table of its options.
"""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from shlex import quote
from typing import TextIO

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent

from xft.cli.running import ENVIRONMENT, failure
from xft.common.errors import UserError, collecting_errors, did_you_mean
from xft.common.file_access import explain
from xft.common.foreign_text import one_line, printable
from xft.common.gpus import check_gpus
from xft.config.reading import complete, naming, read_config
from xft.dag.messages import (
    beginning,
    failures,
    names_line,
    pace_line,
    store_line,
    time_left,
    unpublished_line,
    warnings,
)
from xft.dag.nodes import Node
from xft.dag.problem_checks import missing_sets, missing_toolchains
from xft.dag.workflow_run import WorkflowRun
from xft.reporting.summaries import head
from xft.reporting.verdict import PLAN
from xft.store.forks import start_server
from xft.store.job_records import Jobs, read_plan
from xft.store.store import is_whole

warn = cache(partial(print, file=sys.stderr))  # a line, once
NODE = re.compile(r"(\w+)(\\n| - )digest: ([0-9a-f]+)")  # of a graph in dot, or in mermaid
HIDDEN_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO}
# Folders of Snakemake's code, whose remarks tell how it works. What its executors say, and what
# makes environments, lies in others.
FOLDERS = {"snakemake", "scheduling", "persistence"}
WITHOUT_SETS = "No job has begun. What needs no such set is made by --until, as --until dense"
# The options with which Snakemake runs no job, besides -n.
INSPECTS = re.compile(
    "-[DSlt]$|--(archive|cleanup|cm$|conda-c|container|d3dag|dag|delete|detailed|export|filegraph"
    "|generate|l[cipt]$|lint|list|lu$|print-comp|report|rulegraph|summary|touch|unlock)"
)
NO_TARGET = re.compile("^Target rules may not contain wildcards|^No rule to produce ", re.MULTILINE)
TIME = re.compile(r"^( *)\[.* (\d\d:\d\d:\d\d) \d{4}\]\n *(?:Job \d+: )?", re.MULTILINE)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the run with the message of an error that the user can correct."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(explain(error) or str(error))


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Let a Ctrl-C end what may last. asyncio, in which Snakemake makes its graph, waits for it."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class SnakemakeRun:
    """A workflow of Snakemake's, with what its configuration asks for.

    config: the complete configuration.
    jobs: by the digest of what they make. The processes of jobs read them from the store.
    run: None in the processes of jobs.
    is_alone: whether this is the main process, and no other workflow includes this one.
    """

    def __init__(self, workflow, values: dict):
        """values: the configuration as Snakemake read it."""
        self.workflow, self.run = workflow, None
        self.is_alone = workflow.is_main_process and workflow.modifier.is_main_snakefile()
        self.deployment = workflow.deployment_settings.deployment_method
        self.show_results = cache(self.show_results)
        shorten(workflow, self._time_left)
        with exit_on_error():
            check_storage(workflow.storage_settings)
            if workflow.is_main_process:
                with naming(self._place()):
                    self.run = self._checked_run(values)
            self.config = self.run.config if self.run else complete(values)
            self.jobs = self.run.jobs if self.run else read_plan()
        name_nodes(sys.stdout, self.jobs)

    def _place(self) -> str:
        """What messages call the configuration: its file, if all values come from this one."""
        files = self.workflow.configfiles
        is_all = self.is_alone and len(files) == 1 and not self.workflow.config_settings.config
        return os.path.relpath(files[0]) if is_all else "config"

    def _checked_run(self, values: dict) -> WorkflowRun:
        for file in self.workflow.configfiles:
            read_config(Path(file))  # two equal keys are refused
        begins = runs_jobs(sys.argv) and not self.workflow.output_settings.dryrun
        run = WorkflowRun(values, begins)
        check_options(sys.argv, run)
        checks = [] if self.deployment else [run.require_packages, run.check_models]
        faults: list[str] = []
        for check in (*checks, partial(run.check, self.workflow.configfiles)):
            with collecting_errors(faults):
                check()
        if faults:
            raise UserError("\n".join(faults))
        return run

    @property
    def keeps_merges(self) -> bool:
        return self.run is None or self.run.keeps_merges

    def begin(self, targets: Sequence[Node]) -> None:
        """Lock the store and write the jobs, if this process is to run jobs: not for -n.

        What other stores have of the targets is taken.
        """
        # Existence alone decides what runs: an entry is whole, even if its job was cut off.
        self.workflow.dag.ignore_incomplete |= self.is_alone
        with exit_on_error(), ended_by_interrupt():
            if self.is_alone:
                check_not_forced(self.workflow.dag_settings, self.run)
            if self.run and self.workflow.executor_plugin and not self.workflow.dryrun:
                if self.workflow.touch:
                    print("--touch does nothing here: the times of artifacts do not matter")
                    sys.exit()
                self.run.begin(targets)

    def inputs(self, digest: str) -> dict[str, list[str]]:
        """The entries and files that a job reads, by name.

        A whole entry needs none that are missing: Snakemake would make them, because it runs what
        depends on a job again.
        """
        job = self.jobs[digest]
        if self.run:
            node = self.run.experiment.by_name[job.name]
            if not self.run.begun:
                self.begin([node])
            if is_whole(node.entry):
                there = {name: filter(os.path.exists, job.inputs[name]) for name in job.inputs}
                return {name: [*paths] for name, paths in there.items()}
        return job.inputs

    def targets(self) -> list[str]:
        """The entries of what the run makes in the end."""
        ends = self.run.experiment.ends
        self._announce(ends)
        if self.run.begun and not self.run.to_make:
            self.show_results()
        if self.workflow.dryrun and not self.run.to_make and (line := names_line(self.run)):
            print(line)
        return [str(node.entry) for node in ends]

    def named(self, name: str) -> str:
        """The entry of the artifact with a name in the results folder."""
        known, results = self.run.experiment.by_name, self.run.results
        if name not in known:
            sys.exit(
                f"{results}/{name} is no result of this configuration"
                f"{did_you_mean(name, known)}\nIts results:"
                + "".join(f"\n  {results}/{other}" for other in known)
            )
        node, link = known[name], results / name
        self._announce([node])
        if self.workflow.dryrun and link.is_symlink() and link.resolve() != node.place.resolve():
            # Snakemake takes the link, which a run would replace, for the result.
            jobs = "\n  ".join(job.name for job in self.run.needed([node])) or "nothing"
            print(f"{link} is of another configuration. A run makes:\n  {jobs}")
        return str(node.entry)

    def target_of(self, name: str) -> str:
        """Where the link with a name leads."""
        place = self.run.experiment.by_name[name].place
        return os.path.relpath(place, (self.run.results / name).parent)

    def _announce(self, nodes: Sequence[Node]) -> None:
        """Begin a run that makes these artifacts, with warnings."""
        settings = self.workflow.dag_settings
        self._check_rule_names(settings)
        self.workflow.dag.omitfiles |= with_entries(settings.omit_from, self.run)
        self.begin(nodes)
        needed = self.run.needed(nodes)
        with ended_by_interrupt():
            lines = [*warnings(self.run, needed)]
        for line in lines:
            warn(line)
        if self.workflow.dryrun and not self.deployment:
            for fault in missing_toolchains(needed):
                warn(f"WARNING: {fault}. Only jobs that run elsewhere need none here")

    def _check_rule_names(self, settings) -> None:
        """End the run if an option names no rule. Snakemake would look for such a file."""
        rules = [rule.name for rule in self.workflow.rules]
        for option, names in (("until", settings.until), ("omit-from", settings.omit_from)):
            for name in names:
                if "/" not in name and name not in rules:
                    hint = did_you_mean(name, rules) or f". The rules: {', '.join(rules)}"
                    sys.exit(f"--{option} {name}: there is no such rule{hint}")

    def _time_left(self) -> str:
        """The time that the run still takes, in words."""
        if self.run is None:
            return ""
        return time_left(self.run, [file for job in self._jobs() for file in job.output])

    def _jobs(self) -> Iterator:
        """Snakemake's jobs that are to run."""
        graph = self.workflow.dag
        # With --until, the graph also holds jobs that the targets do not need.
        return filter(graph.needrun, graph.bfs(graph.dependencies, *graph.targetjobs))

    def start(self, root: Path) -> None:
        """Say what begins. End the run if a job would find problems nowhere, or if this machine
        lacks the GPU or compiler of a job here.

        Jobs here are forks, but for those of a run with GPUs. root: of the steps.
        """
        jobs = [*self._jobs()]
        digests = {getattr(job.wildcards, "digest", None) for job in jobs}
        nodes = [node for node in self.run.to_make if node.digest in digests]
        is_local = self.workflow.local_exec and not self.deployment
        with exit_on_error(), ended_by_interrupt():
            if is_local and any(job.resources.get("gpu") for job in jobs):
                check_gpus(self.config.gpus)
            faults = missing_toolchains(nodes) if is_local else []
            unfetched = [] if self.deployment else missing_sets(nodes)
            if faults or unfetched:
                end = [WITHOUT_SETS] if unfetched else []
                raise UserError("\n".join([*faults, *unfetched, *end]))
        if is_local and not self.config.gpus:
            steps = {"PYTHONPATH": str(root), "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}
            self.forks = start_server(ENVIRONMENT | os.environ | steps)
        print(beginning(self.config), flush=True)

    def show_results(self) -> None:
        """Print the verdict and the scores of a finished configuration, once."""
        results = self.run.results
        summary = (results / "summary.md").read_text()
        print(head(summary))
        if PLAN in summary and (line := pace_line(self.run)):
            print(f"\n{line}")
        print(f"Charts and solutions, for a browser: {results}/report.html", flush=True)

    def succeed(self) -> None:
        self.run.lay_names()
        if not self.run.to_make:
            self.show_results()
        print(store_line(self.run))
        self._tell_unpublished()

    def fail(self) -> None:
        """Show what failed, once."""
        self.run.lay_names()
        for line in failures(self.run):
            print(printable(line), file=sys.stderr)
        self._tell_unpublished()
        logging.disable()  # Snakemake only adds that a job failed

    def _tell_unpublished(self) -> None:
        if line := unpublished_line(self.run):
            print(line, file=sys.stderr)


def check_storage(settings) -> None:
    """Raise UserError if Snakemake would keep files elsewhere. settings: of its storage."""
    if settings.default_storage_provider:
        raise UserError(
            "--default-storage-provider: Snakemake's own storage and cloud executors do not know "
            "the store. Run snakemake on each machine without it, and name a bucket in `publish` "
            "and `stores` (docs/cluster.md)"
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


def name_nodes(stream: TextIO, jobs: Jobs) -> None:
    """Let a stream write names of artifacts in place of digests, in a graph of jobs."""
    write = stream.write

    def label(match: re.Match) -> str:
        rule, between, digest = match.groups()
        name = jobs[digest].name.replace('"', r"\"")
        return name if name == rule else f"{rule}{between}{name}"

    stream.write = lambda text: write(NODE.sub(label, text))


def shorten(workflow, time_left: Callable[[], str]) -> None:
    """Let the screen show one line for each job that begins, and one for the share that is done.

    time_left: gives the end of the latter. Handlers of the user's own logger plugins keep what they
    get.
    """
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            screen = _Screen(handler.formatter, workflow, time_left)
            handler.addFilter(screen)
            handler.setFormatter(screen)


def end_at_once(*_) -> None:
    """End the process with one line. Snakemake would show stack traces of all that waits."""
    os.write(sys.stderr.fileno(), b"\nEnded at once. To go on: run the same command again.\n")
    os._exit(128 + signal.SIGINT)


class _Screen(logging.Formatter):
    """Leaves out messages, and shortens what another formatter writes of the others."""

    def __init__(self, formatter: logging.Formatter, workflow, time_left: Callable[[], str]):
        super().__init__()
        self.formatter, self.workflow, self.time_left = formatter, workflow, time_left
        self.time = "" if workflow.output_settings.dryrun else r"[\2] "
        self.counts, self.total, self.names = "", 0, {}
        self.is_interrupted = self.has_failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown: events of jobs, results of commands, and errors.

        The end of the run tells what failed in a job.
        """
        event = getattr(record, "event", None)
        if event == LogEvent.ERROR:
            return not (self.names and record.exception == "RuleException")
        is_remark = logging.DEBUG < record.levelno < logging.ERROR
        runs_jobs = self.workflow.executor_plugin or record.module == "api"
        if event or not runs_jobs or self._is_interrupt():
            return event not in HIDDEN_EVENTS
        folder = Path(record.pathname).parent.name
        if self.has_failed and folder == "scheduling":  # it only adds that a job failed
            return False
        return not (is_remark and folder in FOLDERS) or record.msg == NOTHING_TO_BE_DONE_MSG

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            return self._counts(record.stats)
        if event == LogEvent.PROGRESS:
            if self.workflow.dag_settings.until:
                # Snakemake's total holds the jobs that are left out, too.
                record = logging.makeLogRecord(record.__dict__ | {"total": self.total})
            left = self.time_left() if record.done < record.total else ""
            return self.formatter.format(record) + left
        if event == LogEvent.JOB_INFO:
            label = getattr(record.resources, "label", None)  # none has a rule of another workflow
            name = self.names[record.jobid] = label or record.rule_name
            if label and not record.rule_msg:
                entry = record.output[0].rpartition(" (")[0]  # without Snakemake's marks
                line = f"{record.rule_name}: {name}" + ("" if self.time else f" ({entry})")
                record = logging.makeLogRecord(record.__dict__ | {"rule_msg": line})
        if event == LogEvent.JOB_ERROR:
            self.has_failed = True
            return self._failed(record)
        if self._is_interrupt():
            self.is_interrupted = True
            signal.signal(signal.SIGINT, end_at_once)
            return (
                "Interrupted: waiting until the jobs that run have stopped. A second Ctrl-C ends "
                "the run at once."
            )
        text = self.formatter.format(record)
        if event == LogEvent.ERROR and NO_TARGET.search(text):
            text += "\nThe name of a result begins with the results folder, as in results/moe_sft."
        return TIME.sub(r"\1" + self.time, text)

    def _is_interrupt(self) -> bool:
        """Whether Snakemake begins to handle a Ctrl-C: it tells this once."""
        return isinstance(sys.exception(), KeyboardInterrupt) and not self.is_interrupted

    def _counts(self, stats: dict[str, int]) -> str:
        """The number of jobs of each rule, once. A dry run sends it twice."""
        jobs = ", ".join(f"{rule} {n}" for rule, n in stats.items() if rule != "total")
        self.total = stats["total"]
        before, self.counts = self.counts, f"Jobs: {self.total} ({jobs})"
        return "" if before == self.counts else self.counts

    def _failed(self, record: logging.LogRecord) -> str:
        """The result, the message of a scheduler or the step's first line of it, and the logs.

        Empty after a Ctrl-C, which fails all jobs that run.
        """
        if self.is_interrupted:
            return ""
        name = self.names.get(record.jobid, record.rule_name)
        texts = [Path(log).read_text(errors="replace") for log in record.log if Path(log).is_file()]
        said = record.rule_msg or next(filter(None, map(failure, texts)), "")
        cause = f": {one_line(said.splitlines()[0])}" if said else ""
        return f"{time.strftime('[%H:%M:%S]')} {name} failed{cause} (log: {', '.join(record.log)})"
