"""What the rules ask a scheduler for."""

import re

import pytest

CASES = {
    "one process": ({}, {}, "python", {"gpu": 0}),
    "processes": (
        {"launch": "zero3", "processes": 4},
        {"gpus": 1},
        "python -m xft.common.gpus 4 torchrun --standalone --nproc-per-node 4",
        {"threads": 4, "gpu": 4},
    ),
    "nodes": (
        {"launch": "ddp", "processes": 2, "nodes": 3},
        {"gpus": 1},
        "srun --nodes=3 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=2 "
        "bash -c 'exec python -m xft.common.gpus 2 torchrun --nnodes 3",
        {
            **{"threads": 2, "gpu": 6},
            **{"nodes": 3, "tasks": 3, "tasks_per_gpu": 0, "mpi": "srun"},
        },
    ),
}


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("launch")


def jobs(output: str) -> dict[str, str]:
    """What a dry run shows of the jobs, by rule; of the last one where there are several."""
    parts = re.split(r"\n(?:local)?rule ", output)
    return {part.partition(":")[0]: part for part in parts[1:]}


def requests(job: str) -> dict[str, str]:
    """The threads, if more than one, and the resources of a job that are ours to choose."""
    line = re.search(r"resources: (.+)", job)[1]
    found = dict(item.split("=", 1) for item in line.split(", "))
    for name in ("tmpdir", "runtime", "mem", "mem_mb", "mem_mib"):
        del found[name]
    for name in ("besides", "start"):  # of the trainings
        found.pop(name, None)
    threads = re.search(r"threads: (\d+)", job)
    return found | ({"threads": threads[1]} if threads else {})


@pytest.mark.parametrize("case", CASES)
def test_what_the_rules_ask_for(project, case):
    training, top, program, asked = CASES[case]
    project.overlay = top
    mixing = training | ({"launch": "ddp"} if training else {})
    done = project.snakemake(
        *("-np", "--cores", "8", "--resources", "gpu=8"), moe_sft=training, mixing=mixing
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = jobs(done.stdout)
    for step in ("moe_sft", "weighted_trained"):
        job = shown[step]
        (command,) = re.findall(f"Shell command: (.*) -m workflow_scripts.{step} ", job)
        assert f"{command} ".startswith(f"{program} ")
        assert requests(job) == {name: str(value) for name, value in asked.items()}
    assert requests(shown["eval"])["gpu"] == str(top.get("gpus", 0))


def test_another_attempt_asks_for_more_memory_and_time_unless_it_goes_on(project):
    project.overlay = {"evaluation": {"lm_eval": ["arc_easy"]}, "data": {"validation_rows": 8}}

    def asked(attempt: int) -> dict[str, tuple[int, int]]:
        done = project.snakemake("-n", "--attempt", str(attempt))
        assert done.returncode == 0, done.stdout + done.stderr
        return {
            rule: tuple(int(re.search(rf"{name}=(\d+)", job)[1]) for name in ("mem_mb", "runtime"))
            for rule, job in jobs(done.stdout).items()
            if "mem_mb=" in job
        }

    first, second, later = asked(1), asked(2), asked(9)
    begin_again = ("tokens", "moe", "ffn", "dense", "ground_truth", "validation_loss", "lm_eval")
    for rule in begin_again:
        assert second[rule][1] == 2 * first[rule][1]
    for rule in ("moe_sft", "weighted_trained", "eval"):
        assert later[rule][1] == first[rule][1]
    for rule in first.keys() - {"base", "summary", "report"}:
        assert second[rule][0] == int(1.5 * first[rule][0])
        assert later[rule][0] == 2 * first[rule][0]


def test_the_slurm_profile_caps_no_gpus(project):
    """Unlike the profile for one machine, which is read too where another is given by --profile."""
    project.overlay = {"gpus": 1}
    training = {"launch": "zero3", "processes": 4}
    done = project.snakemake("-n", "--workflow-profile", "slurm", moe_sft=training)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = requests(jobs(done.stdout)["moe_sft"])
    assert (asked["gpu"], asked["slurm_extra"]) == ("4", "--signal=TERM@300")


def test_a_pair_that_is_refused_stops_the_workflow(project):
    project.overlay = {}
    done = project.snakemake("-n", moe_sft={"launch": "zero2", "optim": "adafactor"})
    assert done.returncode != 0
    assert "config: moe_sft: launch = zero2: optim = adafactor" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
