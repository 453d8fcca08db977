"""What jobs ask a scheduler for in each attempt, and what a run says of failures."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from xft.config.runs import find_runs
from xft.config.validation import complete
from xft.dag.announcements import beginning, failures
from xft.dag.job_resources import JobResources, continuing, growing
from xft.dag.wanted import Wants
from xft.estimates.resources import Needs

SECTIONS = {"base": {"model": "x"}, "data": {"train": "y"}}


def needs(wildcards) -> Needs:
    return Needs(1000, 60)


@pytest.mark.parametrize(
    ("resources", "minutes"),
    [(growing, [60, 120, 180, 240]), (continuing, [60, 60, 60, 60])],
    ids=["begins again", "continues"],
)
def test_each_attempt_gets_more_memory_up_to_twice(resources, minutes):
    asked = resources(needs)
    assert [asked["mem_mb"](None, attempt=n) for n in (1, 2, 3, 4)] == [1000, 1500, 2000, 2000]
    runtime = asked["runtime"]
    by_attempt = runtime.__code__.co_argcount == 2
    found = [runtime(None, attempt=n) if by_attempt else runtime(None) for n in (1, 2, 3, 4)]
    assert found == minutes


@pytest.fixture
def find(tmp_path, monkeypatch):
    """A function that gives an artifact of a run whose base is not here yet."""
    monkeypatch.chdir(tmp_path)
    Path("y").write_text("{}\n")
    (run,) = find_runs(SECTIONS)
    wanted = Wants(run, "results").moe_sft
    return lambda wildcards: wanted


def test_a_measurement_takes_its_own_minutes(find):
    resources = JobResources(complete(SECTIONS), "metrics").measurement(find, 7)
    assert resources["runtime"](SimpleNamespace(model="base"), attempt=2) == 14
    assert resources["besides"] == "--gpus=0"


def test_several_nodes_have_a_task_each(find):
    launch = {"launch": "ddp", "nodes": 2, "processes": 4, "save_minutes": 5}
    config = complete(SECTIONS | {"gpus": 1, "threads": 3, "moe_sft": launch})
    resources = JobResources(config, "results/metrics")
    asked = resources.training("moe_sft", find)
    assert {key: asked[key] for key in ("nodes", "tasks", "tasks_per_gpu", "gpu")} == {
        "nodes": 2,
        "tasks": 2,
        "tasks_per_gpu": 0,
        "gpu": 8,
    }
    flags = "--gpus=1 '--tracker-dir=results/metrics/seed~7' --save-minutes=5.0"
    assert asked["besides"](SimpleNamespace(variation="seed~7/")) == flags
    assert asked["start"].startswith(
        "srun --nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=12 "
        "bash -c 'exec python -m xft.common.gpus 4 torchrun --nnodes 2 "
    )
    assert resources.training("mixing", find)["start"] == "python"


TORCHRUN = """\
E1128 23:22:26.369000 21486 torch/distributed/elastic/multiprocessing/api.py:1002] failed
Traceback (most recent call last):
  File "/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/lib/torch/distributed/run.py", line 1028, in main
    run(args)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
"""


def test_the_messages_of_this_runs_failures_are_shown(tmp_path):
    for name, text, age in (
        ("old", "moe: error: long ago", -10),
        ("new", f"WARNING: x\nmoe_sft: error: two\nlines\n{TORCHRUN}", 10),
        ("good", "all is well\n", 10),
    ):
        log = Path(tmp_path, f"{name}.log")
        log.write_text(text)
        os.utime(log, (1000 + age, 1000 + age))
    (message,) = failures(tmp_path, since=1000)
    assert message == f"moe_sft: error: two\nlines\n(the whole log: {tmp_path / 'new.log'})"


def test_the_beginning_names_what_is_not_a_default():
    config = complete(SECTIONS | {"seed": 7, "merge": {"lambdas": [1]}, "results_dir": "out/"})
    lines = beginning(config).splitlines()
    assert "  seed: 7" in lines and "  base.model: x" in lines
    assert "All of it: out/config.yaml" in lines
    assert "step 6 has nothing to learn" in lines[-1]
