"""What a run shows of Snakemake's messages. Its log file in .snakemake/log keeps all of them."""

import logging
import re

from snakemake_interface_logger_plugins.common import LogEvent

HIDDEN_EVENTS = {LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO}
HIDDEN = re.compile(
    "Select jobs to execute|Building DAG|Using shell|Assuming unrestricted|Conda environments: ign|"
    # A rule's output is declared as `update`: an attempt that failed has nothing to restore.
    "Reasons:|Cannot restore"
)
TIME = re.compile(r"^( *)\[.* (\d\d:\d\d:\d\d) \d{4}\]\n *(?:Job \d+: )?", re.MULTILINE)


def shorten(is_dry_run: bool) -> None:
    """Let the screen show one line for each job that begins, and one for the share that is done.

    Handlers of the user's own logger plugins keep what they get.
    """
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(_is_shown)
            handler.setFormatter(_Short(handler.formatter, is_dry_run))


def _is_shown(record: logging.LogRecord) -> bool:
    is_hidden = getattr(record, "event", None) in HIDDEN_EVENTS
    return not (is_hidden or HIDDEN.match(record.getMessage()))


class _Short(logging.Formatter):
    """Shortens what another formatter writes."""

    def __init__(self, formatter: logging.Formatter, is_dry_run: bool):
        super().__init__()
        self.formatter, self.time = formatter, "" if is_dry_run else r"[\2] "
        self.counts = ""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "event", None) == LogEvent.RUN_INFO:
            return self._counts(record.stats)
        return TIME.sub(r"\1" + self.time, self.formatter.format(record))

    def _counts(self, stats: dict[str, int]) -> str:
        """The number of jobs of each rule, once. A dry run sends it twice."""
        jobs = ", ".join(f"{rule} {n}" for rule, n in stats.items() if rule != "total")
        before, self.counts = self.counts, f"Jobs: {stats['total']} ({jobs})"
        return "" if before == self.counts else self.counts
