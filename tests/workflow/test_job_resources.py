"""What jobs ask a scheduler for in each attempt, and what a run says of failures."""

import json
import os
import re
from pathlib import Path

import pytest
from working_folder import CONFIG, ROW, wants

from xft.config.reading import complete
from xft.dag.job_resources import memory, minutes, nodes
from xft.dag.messages import beginning, failures, warnings
from xft.store.job_records import Job


@pytest.fixture(autouse=True)
def nine_rows(place) -> None:
    Path("rows.jsonl").write_text(9 * (json.dumps(ROW) + "\n"))


def jobs(**keys) -> dict[str, Job]:
    """The jobs of a configuration with these keys, by name."""
    return {job.name: job for job in wants(**keys).jobs.values()}


def test_each_attempt_gets_more_memory_and_more_time_unless_it_goes_on():
    found = jobs(data={"validation_rows": 1}, evaluation={"models": ["base", "sft", "dense"]})
    asked = [memory({"mem_mb": 1000}, attempt) for attempt in (1, 2, 3, 4)]
    assert asked == [1000, 1500, 2000, 2000]
    resources = {name: job.resources for name, job in found.items()}
    goes_on = {name for name, asked in resources.items() if minutes(asked, 2) == asked["minutes"]}
    evaluations = {name for name in found if name.startswith("eval/")}
    assert goes_on == evaluations | {"sft", "moe_sft", "weighted_trained/lam~0.75"}
    assert minutes(found["validation/base.json"].resources, 3) == 180


def test_the_base_is_evaluated_first():
    found = jobs(evaluation={"models": ["base", "moe", "sft"]})
    asked = {name: job.resources["priority"] for name, job in found.items() if "eval/" in name}
    assert {name for name in asked if asked[name]} == {"eval/base/problems.json"}


def test_only_what_vllm_generates_runs_in_its_environment():
    """It cannot load mixtures."""
    models = ["base", "moe", "moe_sft", "dense"]
    asked = {
        name: job.resources["environment"]
        for name, job in jobs(evaluation={"backend": "vllm", "models": models}).items()
        if "eval/" in name
    }
    in_its_own = {name for name in asked if asked[name] == "vllm"}
    assert len(asked) == len(models)
    assert in_its_own == {"eval/base/problems.json", "eval/dense/lam~0.75/problems.json"}


def test_several_nodes_have_a_task_each():
    launch = {"launch": "ddp", "nodes": 2, "processes": 4, "save_minutes": 5}
    launched = {"gpus": 1, "threads": 3, "moe_sft": launch, "report_to": ["tensorboard"]}
    job = jobs(**launched)["moe_sft"]
    asked = job.resources
    assert (asked["threads"], asked["gpu"]) == (12, 8)
    words = "--gpus=1 --report-to tensorboard --tracker-dir=results/metrics --save-minutes=5.0"
    assert {*words.split()} <= {*job.flags.split()}
    srun = "srun --nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=12 bash -c "
    start = f"{srun}'exec python -m xft.common.gpus 4 torchrun --nnodes 2 "
    assert asked["start"].startswith(start)
    config = complete(CONFIG | launched)
    assert nodes(config.moe_sft) == {"nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "mpi": "srun"}
    assert nodes(config.mixing) == {}


def test_a_job_asks_for_what_it_uses():
    asked = {"moe": (1, 0), "tokens": (2, 0), "eval/base/problems.json": (2, 1)}
    asked["ground_truth/problems"] = 2, 0
    found = {name: job.resources for name, job in jobs(gpus=1, threads=2).items()}
    assert {name: (found[name]["threads"], found[name]["gpu"]) for name in asked} == asked


AGAIN = "The same command would fail again: first correct the cause of tokens, moe_sft"
CLOSINGS = {"two\nlines": AGAIN}
CLOSINGS |= {"The disk has 0.1 MB free: make room": "First make room. The same command"}
CLOSINGS |= {"8 MB are free. Free some space, and run the same": "First make room. The same"}
CLOSINGS |= {"HumanEval+ could not be fetched": "First see that this machine reaches"}
CLOSINGS |= {"the step was killed by SIGKILL, as when memory runs out": "To go on: run the same "}


@pytest.mark.parametrize(("error", "closing"), CLOSINGS.items())
def test_the_messages_of_this_runs_failures_are_shown_and_what_to_do(error, closing):
    run = wants()
    run.began = 1000
    others = ("moe", "moe: error: long ago", -10), ("ffn", "all is well\n", 10)
    told = f"WARNING: x\nmoe_sft: error: {error}\n"
    for name, text, age in (*others, ("moe_sft", told, 10), ("tokens", told, 10)):
        part = run.experiment.by_name[name]
        log = run.store.log(part.step, part.digest)
        log.parent.mkdir(parents=True)
        log.write_text(text)
        os.utime(log, (1000 + age, 1000 + age))
    message, end = failures(run)
    part = run.experiment.by_name["tokens"]
    log = run.store.log("tokens", part.digest)
    assert message == f"\ntokens failed: {error}\n(log: {log})\nThe same: moe_sft"
    assert end.startswith(closing)


def test_the_beginning_names_what_is_not_a_default_and_a_seed_that_no_run_has():
    config = complete(CONFIG | {"seed": 7, "results_dir": "out/"})
    lines = beginning(config).splitlines()
    named = {line.split(":")[0].strip() for line in lines if line.startswith("  ")}
    changed = {f"{section}.{key}" for section in CONFIG for key in CONFIG[section]}
    assert "  seed: 7" in lines and named == {"seed", "results_dir", *changed}
    assert "All of it: out/config.yaml" in lines
    for seeds, told in (([43, 44], True), ([42, 43], False), ([], False)):
        for stated in ({"seed": 42}, {}):
            last = beginning(complete(CONFIG | stated | {"seeds": seeds})).splitlines()[-1]
            assert (f"seed = 42 is not one of seeds = {seeds}" in last) == (told and bool(stated))


TWO_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 2}
SET = {"moe": {"num_experts": 6}, "sft": {"max_steps": 5}, "mixing": {"max_steps": 2}}
DEFAULTS = {"sft": {"num_train_epochs": 4}, "mixing": {"num_train_epochs": 1}}


def test_a_run_warns_of_odd_values_and_idle_sections_in_one_line_each():
    for keys, warned in (
        ({"data": {"validation_rows": 1}}, ["data.validation_rows = 1"]),
        ({"moe_sft": {"learning_rate": 1000}}, ["moe_sft.learning_rate = 1000.0"]),
        ({"sweep": {"mixing.learning_rate": [0.1, 1]}}, ["mixing.learning_rate = 1.0"]),
        ({"data": {"validation_rows": 2}, "moe_sft": {"learning_rate": 0.9}}, []),
        ({"moe": TWO_EXPERTS}, ["moe.num_experts = 2"]),
        (SET, ["sft"]),
        (SET | {"evaluation": {"models": ["base", "sft_flops"]}}, ["mixing"]),
        (SET | {"evaluation": {"models": ["base", "sft"]}}, ["moe", "mixing"]),
        (SET | {"variants": {"a": {"evaluation": {"models": ["sft", "dense"]}}, "b": {}}}, []),
        (DEFAULTS, []),
        ({"moe_sft": {"max_steps": 5, "num_train_epochs": 3}}, ["moe_sft.num_train_epochs = 3.0"]),
        ({"mixing": {"max_steps": 5, "num_train_epochs": 3}}, ["mixing.num_train_epochs = 3.0"]),
        ({"moe_sft": {"num_train_epochs": 3}, "mixing": {"max_steps": 5}}, []),
    ):
        run = wants(**keys)
        lines = list(warnings(run, run.to_make))
        assert [line.split(": ")[:2] for line in lines] == [["WARNING", odd] for odd in warned]
        advice = "Usual are|no effect beside max_steps. Leave out one of the two"
        assert all(re.search(advice, line) for line in lines if " = " in line)
