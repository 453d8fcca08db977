"""The screen of a run: a line for a job that begins, one for the share that is done.

Snakemake's log file in .snakemake/log keeps what the screen leaves out.

This changes the handler that Snakemake has made. A logger plugin of Snakemake's would need a
package and an option of each run. It would exclude the user's plugins that write to the screen,
and would work in another thread, which does not notice a Ctrl-C.
"""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent

from xft.cli.running import failure
from xft.common.foreign_text import one_line
from xft.store.job_records import Jobs

NODE = re.compile(r"(\w+)(\\n| - )digest: ([0-9a-f]+)")  # of a graph in dot, or in mermaid
HIDDEN_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO}
# Folders of Snakemake's code, whose remarks tell how it works. What its executors say, and what
# makes environments, lies in others.
FOLDERS = {"snakemake", "scheduling", "persistence"}
NO_TARGET = re.compile("^Target rules may not contain wildcards|^No rule to produce ", re.MULTILINE)
TIME = re.compile(r"^( *)\[.* (\d\d:\d\d:\d\d) \d{4}\]\n *(?:Job \d+: )?", re.MULTILINE)
INTERRUPTED = (
    "Interrupted: waiting until the jobs that run have stopped. A second Ctrl-C ends the run at "
    "once."
)


def name_nodes(stream: TextIO, jobs: Jobs) -> None:
    """Let a stream write names of artifacts in place of digests, in a graph of jobs."""
    write = stream.write

    def label(match: re.Match) -> str:
        rule, between, digest = match.groups()
        name = jobs[digest].name.replace('"', r"\"")
        if name == rule:
            return name
        return f"{rule}{between}{name}"

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
    """Leaves out messages, and shortens what another formatter writes of the others.

    time: the form of a message's time, for `TIME`; empty in a dry run.
    counts: the line with the number of jobs, once it was shown.
    total: the number of jobs.
    names: of the results of the jobs that have begun, by Snakemake's numbers of jobs.
    is_interrupted: whether a Ctrl-C was told.
    has_failed: whether a job has failed.
    """

    def __init__(self, formatter: logging.Formatter, workflow, time_left: Callable[[], str]):
        super().__init__()
        self.formatter = formatter
        self.workflow = workflow
        self.time_left = time_left
        self.time = "" if workflow.output_settings.dryrun else r"[\2] "
        self.counts = ""
        self.total = 0
        self.names: dict[int, str] = {}
        self.is_interrupted = False
        self.has_failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown: events of jobs, results of commands, and errors.

        The end of the run tells what failed in a job.
        """
        event = getattr(record, "event", None)
        if event == LogEvent.ERROR:
            is_of_job = bool(self.names) and record.exception == "RuleException"
            return not is_of_job
        if event:
            return event not in HIDDEN_EVENTS
        runs_jobs = self.workflow.executor_plugin or record.module == "api"
        if not runs_jobs or self._is_interrupt():
            return True
        folder = Path(record.pathname).parent.name
        if self.has_failed and folder == "scheduling":  # it only adds that a job failed
            return False
        if record.msg == NOTHING_TO_BE_DONE_MSG:
            return True
        is_remark = logging.DEBUG < record.levelno < logging.ERROR
        return not (is_remark and folder in FOLDERS)

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            return self._counts(record.stats)
        if event == LogEvent.PROGRESS:
            return self._progress(record)
        if event == LogEvent.JOB_INFO:
            record = self._job(record)
        if event == LogEvent.JOB_ERROR:
            return self._failed(record)
        if self._is_interrupt():
            self.is_interrupted = True
            signal.signal(signal.SIGINT, end_at_once)
            return INTERRUPTED
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
        counts = f"Jobs: {self.total} ({jobs})"
        if counts == self.counts:
            return ""
        self.counts = counts
        return counts

    def _progress(self, record: logging.LogRecord) -> str:
        """The share of the jobs that is done, and the time left."""
        left = self.time_left() if record.done < record.total else ""
        if self.workflow.dag_settings.until:
            # Snakemake's total holds the jobs that are left out, too.
            record = _with(record, total=self.total)
        return self.formatter.format(record) + left

    def _job(self, record: logging.LogRecord) -> logging.LogRecord:
        """The message of a job that begins, with its result in place of its rule."""
        label = getattr(record.resources, "label", None)  # none has a rule of another workflow
        self.names[record.jobid] = label or record.rule_name
        if not label or record.rule_msg:
            return record
        line = f"{record.rule_name}: {label}"
        if not self.time:  # a dry run
            entry = record.output[0].rpartition(" (")[0]  # without Snakemake's marks
            line += f" ({entry})"
        return _with(record, rule_msg=line)

    def _failed(self, record: logging.LogRecord) -> str:
        """The result, the message of a scheduler or the step's first line of it, and the logs.

        Empty after a Ctrl-C, which fails all jobs that run.
        """
        self.has_failed = True
        if self.is_interrupted:
            return ""
        name = self.names.get(record.jobid, record.rule_name)
        message = record.rule_msg or _message_of(record.log)
        cause = f": {one_line(message.splitlines()[0])}" if message else ""
        return f"{time.strftime('[%H:%M:%S]')} {name} failed{cause} (log: {', '.join(record.log)})"


def _message_of(logs: Iterable[str]) -> str:
    """The first error message in some logs. Empty if the logs have no error message."""
    for log in logs:
        file = Path(log)
        if file.is_file():
            message = failure(file.read_text(errors="replace"))
            if message:
                return message
    return ""


def _with(record: logging.LogRecord, **values: object) -> logging.LogRecord:
    """A message with other values."""
    return logging.makeLogRecord(record.__dict__ | values)
