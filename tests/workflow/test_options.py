"""Options and targets that Snakemake would take, and that a run refuses; and what the screen shows
of its messages without an event. Whole runs show the rest.
"""

import logging
import signal
from io import StringIO
from types import SimpleNamespace

import pytest
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from working_folder import fill, wants

from xft.common.errors import UserError
from xft.dag.snakemake_run import SnakemakeRun, check_not_forced, end_at_once, shorten

pytestmark = pytest.mark.usefixtures("place")


def settings(**options) -> SimpleNamespace:
    """Those of Snakemake's graph."""
    none = dict.fromkeys(("forcerun", "forcetargets", "forceall", "targets", "until", "omit_from"))
    return SimpleNamespace(**{name: options.get(name, ()) for name in none})


def test_what_is_whole_is_not_made_by_force():
    run = wants()
    fill(run)
    check_not_forced(settings(), run)
    for options, told in (
        ({"forcetargets": True, "targets": {"results/dense/lam~0.75"}}, r"store/dense/\w{16}\. To"),
        ({"forcerun": {"moe_sft"}}, r"deleting its entry: store/moe_sft/\w{16}\. To"),
    ):
        with pytest.raises(UserError, match=told):
            check_not_forced(settings(**options), run)


@pytest.mark.parametrize("option", ["until", "omit-from"])
def test_a_rule_that_does_not_exist_is_told_with_a_similar_one(option):
    snakemake = SimpleNamespace(workflow=SimpleNamespace(rules=[SimpleNamespace(name="dense")]))
    named = settings(**{option.replace("-", "_"): ["dens"]})
    with pytest.raises(SystemExit, match=f"^--{option} dens: .* did you mean dense?"):
        SnakemakeRun._check_rule_names(snakemake, named)


def test_a_name_that_is_no_result_is_told_with_the_results():
    with pytest.raises(SystemExit) as stop:
        SnakemakeRun.named(SimpleNamespace(run=wants()), "none/of/it")
    told, *lines = stop.value.code.splitlines()
    assert told == "results/none/of/it is no result of this configuration"
    assert "  results/dense/lam~0.75" in lines


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
