"""What a run shows of Snakemake's messages. Its log file in .snakemake/log keeps all of them."""

import logging
import re
import time
from collections.abc import Callable

from snakemake_interface_logger_plugins.common import LogEvent

HIDDEN_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO}
HIDDEN = re.compile(
    "Select jobs to execute|Building DAG|Using shell|Assuming unrestricted|Conda environments: ign|"
    # A rule's output is declared as `update`: an attempt that failed has nothing to restore.
    "Reasons:|Cannot restore|Warning: the following output files of rule (file_)?by_name|"
    # The end of the run tells what failed.
    "RuleException:\nCalledProcessError|Shutting down|Exiting because a job|"
    "WorkflowError:\nAt least one job did|"
    # Digests tell what is up to date, and need no records of Snakemake's.
    r"\d+ jobs have (missing|outdated) provenance|"
    # With Snakemake's lock, as on a cluster: a dry run beside another run, which it leaves alone.
    "Error: Directory cannot be locked"
)
RULE_AS_TARGET = "WorkflowError:\nTarget rules may not contain wildcards"
INTERRUPTED = "Terminating processes on user request"
TIME = re.compile(r"^( *)\[.* (\d\d:\d\d:\d\d) \d{4}\]\n *(?:Job \d+: )?", re.MULTILINE)


def shorten(workflow, time_left: Callable[[], str]) -> None:
    """Let the screen show one line for each job that begins, and one for the share that is done.

    time_left: gives the end of the latter. Handlers of the user's own logger plugins keep what they
    get.
    """
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(_is_shown)
            handler.setFormatter(_Short(handler.formatter, workflow, time_left))


def _is_shown(record: logging.LogRecord) -> bool:
    is_hidden = getattr(record, "event", None) in HIDDEN_EVENTS
    return not (is_hidden or HIDDEN.match(record.getMessage()))


class _Short(logging.Formatter):
    """Shortens what another formatter writes."""

    def __init__(self, formatter: logging.Formatter, workflow, time_left: Callable[[], str]):
        super().__init__()
        self.formatter, self.workflow, self.time_left = formatter, workflow, time_left
        self.time = "" if workflow.output_settings.dryrun else r"[\2] "
        self.counts, self.total, self.names, self.is_interrupted = "", 0, {}, False

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
                line = f"{record.rule_name}: {name} ({entry})"
                record = logging.makeLogRecord(record.__dict__ | {"rule_msg": line})
        if event == LogEvent.JOB_ERROR:
            return self._failed(record)
        if record.getMessage().startswith(RULE_AS_TARGET):
            return (
                "A rule makes several results, so its name is no target. --until RULE makes all of "
                "them. To make one, write its name, such as results/dense/lam~0.75"
            )
        if record.getMessage().startswith(INTERRUPTED):
            self.is_interrupted = True
            return "Interrupted: waiting until the jobs that run have stopped."
        return TIME.sub(r"\1" + self.time, self.formatter.format(record))

    def _counts(self, stats: dict[str, int]) -> str:
        """The number of jobs of each rule, once. A dry run sends it twice."""
        jobs = ", ".join(f"{rule} {n}" for rule, n in stats.items() if rule != "total")
        self.total = stats["total"]
        before, self.counts = self.counts, f"Jobs: {self.total} ({jobs})"
        return "" if before == self.counts else self.counts

    def _failed(self, record: logging.LogRecord) -> str:
        """The result, a scheduler's message if there is one, and the logs.

        Empty after a Ctrl-C, which fails all jobs that run.
        """
        if self.is_interrupted:
            return ""
        name = self.names.get(record.jobid, record.rule_name)
        cause = f": {record.rule_msg}" if record.rule_msg else ""
        return f"{time.strftime('[%H:%M:%S]')} {name} failed{cause} (log: {', '.join(record.log)})"
