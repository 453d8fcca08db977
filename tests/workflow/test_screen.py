"""What the screen shows of Snakemake's messages without an event. Whole runs show the rest."""

import logging
import signal
from io import StringIO
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.common import NOTHING_TO_BE_DONE_MSG

from xft.dag.screen import end_at_once, shorten
from xft.dag.snakemake_options import runs_jobs

LOGGER = logging.getLogger("snakemake.logging")


@pytest.fixture
def shown(monkeypatch):
    """Callable (file, level, message): what the screen shows of what Snakemake's file says."""
    handler = logging.StreamHandler(StringIO())
    handler.name = "DefaultStreamHandler"
    handler.setFormatter(logging.Formatter())
    settings = SimpleNamespace(dryrun=False)
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    monkeypatch.setattr(LOGGER, "propagate", False)
    shorten(SimpleNamespace(output_settings=settings, executor_plugin="local"), lambda: "")

    def say(file: str, level: int, text: str) -> str:
        LOGGER.handle(LOGGER.makeRecord("", level, f"/packages/{file}", 1, text, (), None))
        return handler.setStream(StringIO()).getvalue()

    return say


def test_remarks_of_snakemakes_core_are_left_out_and_those_of_executors_are_shown(shown):
    slurm, conda = "snakemake_executor_plugin_slurm/__init__.py", "snakemake/deployment/conda.py"
    core, scheduler = "snakemake/workflow.py", "snakemake/scheduling/job_scheduler.py"
    for file in (core, scheduler):
        assert not shown(file, logging.INFO, "x") and shown(file, logging.ERROR, "x")
    assert shown(slurm, logging.INFO, "x") and shown(conda, logging.INFO, "x")
    assert shown(core, logging.INFO, NOTHING_TO_BE_DONE_MSG)


def test_a_ctrl_c_is_told_once_and_the_second_ends_the_run(shown, monkeypatch):
    handlers = []
    monkeypatch.setattr(signal, "signal", lambda *handler: handlers.append(handler))
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        told = [shown("snakemake/scheduling/job_scheduler.py", logging.INFO, "x") for _ in "ab"]
    assert told[0].startswith("Interrupted: waiting until the jobs that run have stopped. ")
    assert told[1] == "" and handlers == [(signal.SIGINT, end_at_once)]


def test_a_command_that_runs_no_job_is_known():
    """All others end before their checks where the store is in use."""
    options = {word for action in get_argument_parser()._actions for word in action.option_strings}
    modes = "--lint --list --lt --dag --rulegraph --d3dag --summary -S --unlock --touch --report"
    assert options.issuperset(modes.split())
    for mode in modes.split():
        assert not runs_jobs(["snakemake", "--cores", "2", mode])
    rest = "--cores --local-cores --logger --latency-wait --resources --retries --target-jobs"
    assert options.issuperset(rest.split())
    assert runs_jobs(["snakemake", *rest.split(), "-pc2", "results/dense"])
