"""Trainings with several processes or nodes, as their rules ask the scheduler for them."""

import re

import pytest

CASES = {
    "one process": ({}, {}, "python", {"gpu": 0, "mem_mb": 16000}),
    "processes": (
        {"launch": "zero3", "processes": 4},
        {"gpus": 1},
        "python",
        {"threads": 4, "gpu": 4, "mem_mb": 64000},
    ),
    "nodes": (
        {"launch": "ddp", "processes": 2, "nodes": 3},
        {"gpus": 1},
        "srun --nodes=3 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=2 python",
        {
            **{"threads": 2, "gpu": 6, "mem_mb": 32000},
            **{"nodes": 3, "tasks": 3, "tasks_per_gpu": 0, "mpi": "srun"},
        },
    ),
}


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("launch")


def requests(job: str) -> dict[str, str]:
    """The threads, if more than one, and the resources of a job that are ours to choose."""
    line = re.search(r"resources: (.+)", job)[1]
    found = dict(item.split("=", 1) for item in line.split(", "))
    for name in ("tmpdir", "runtime", "mem", "mem_mib"):
        del found[name]
    found.pop("trackers", None)  # of the trainings
    threads = re.search(r"threads: (\d+)", job)
    return found | ({"threads": threads[1]} if threads else {})


@pytest.mark.parametrize("case", CASES)
def test_what_the_rules_ask_for(project, case):
    training, top, program, asked = CASES[case]
    project.overlay = top
    mixing = training | ({"launch": "ddp"} if training else {})
    done = project.snakemake(
        *("-np", "--cores", "8", "--resources", "gpu=8"), training=training, mixing=mixing
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.split(r"\n(?:local)?rule ", done.stdout)
    for step in ("moe_sft", "weighted_trained"):
        (job,) = [job for job in jobs if job.startswith(f"{step}:")]
        assert f"Shell command: {program} -m workflow_scripts.{step} " in job
        assert requests(job) == {name: str(value) for name, value in asked.items()}
    evaluation = next(job for job in jobs if job.startswith("eval:"))
    assert requests(evaluation)["gpu"] == str(top.get("gpus", 0))


def test_a_pair_that_is_refused_stops_the_workflow(project):
    project.overlay = {}
    done = project.snakemake("-n", training={"launch": "zero2", "optimizer": "adafactor"})
    assert done.returncode != 0
    assert "config: training: launch = zero2: optimizer = adafactor" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
