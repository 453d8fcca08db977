"""What a run shows of Snakemake's messages. Its log file in .snakemake/log keeps all of them."""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent

from xft.cli.running import failure

HIDDEN_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO}
# Folders of Snakemake's code, whose remarks tell how it works. What its executors say, and what
# makes environments, lies in others.
FOLDERS = {"snakemake", "scheduling", "persistence"}
TIME = re.compile(r"^( *)\[.* (\d\d:\d\d:\d\d) \d{4}\]\n *(?:Job \d+: )?", re.MULTILINE)


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
    os.write(sys.stderr.fileno(), b"Ended at once. To go on: run the same command again.\n")
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
        return TIME.sub(r"\1" + self.time, self.formatter.format(record))

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
        cause = f": {said.splitlines()[0]}" if said else ""
        return f"{time.strftime('[%H:%M:%S]')} {name} failed{cause} (log: {', '.join(record.log)})"
