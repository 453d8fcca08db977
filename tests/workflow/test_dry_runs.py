"""What the rules pass to the steps and ask a scheduler for, as three dry runs show it."""

import os
import re
from pathlib import Path

import pytest

from xft.common import optional

STAND_INS = Path(__file__).parents[1] / "stand_ins"
NEEDS_LM_EVAL = pytest.mark.skipif(not optional.installed("lm_eval"), reason="needs lm_eval")
SETS = ["mbpp", "resources/problems.jsonl"]
# Over the recipe as it was published.
ASKED = {
    "data": {"decontaminate_against": SETS},
    "evaluation": {
        "backend": "vllm",
        "models": ["base", "moe", "sft", "moe_sft", "uniform", "dense"],
        "datasets": SETS,
        "limit": 3,
    },
}
TASKS = ["arc_easy", "my tasks.yaml"] if optional.installed("lm_eval") else []
LAUNCHES = {
    "gpus": 1,
    "data": {"validation_rows": 8},
    "moe_sft": {"launch": "zero3", "processes": 4},
    "mixing": {"launch": "ddp", "processes": 2, "nodes": 3},
    "evaluation": {"lm_eval": TASKS, "limit": 3},
}


@pytest.fixture(scope="module")
def show(new_project):
    """Callable (arguments, configuration): what a dry run shows."""
    project = new_project("dry")
    project.overlay = {}
    (project.folder / "my tasks.yaml").touch()

    def show(*arguments: str, **config) -> str:
        with pytest.MonkeyPatch.context() as patch:
            if not optional.installed("vllm"):
                paths = [str(STAND_INS), os.environ.get("PYTHONPATH", "")]
                patch.setenv("PYTHONPATH", ":".join(filter(None, paths)))
            done = project.snakemake("-np", *arguments, **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return show


@pytest.fixture(scope="module")
def recipe(show) -> str:
    return show("--configfile", "recipes/deepseek-coder-1.3b.yaml", **ASKED)


@pytest.fixture(scope="module")
def launches(show) -> str:
    return show("--cores", "8", "--resources", "gpu=8", **LAUNCHES)


@pytest.fixture(scope="module")
def on_slurm(show) -> str:
    """The second attempt of each job of `launches`."""
    return show("--workflow-profile", "slurm", "--attempt", "2", **LAUNCHES)


def commands(shown: str, step: str) -> list[str]:
    return re.findall(rf"workflow_scripts\.{step} (.*)", shown)


def test_the_published_recipe_runs_the_published_steps(recipe):
    """The defaults complete the file, and not config.yaml, which is of the demonstration."""
    rules = set(re.findall(r"^(?:local)?rule (\w+):", recipe, re.MULTILINE))
    assert rules == {
        *("all", "base", "fetch_data", "fetch_problems", "tokens", "moe", "moe_sft", "sft", "ffn"),
        *("weighted_init", "weighted_trained", "dense", "diversity", "ground_truth"),
        *("eval", "summary", "report"),
    }
    tuning = (
        "--per-device-train-batch-size=2 --gradient-accumulation-steps=32 "
        "--learning-rate={} --lr-scheduler-type=linear --warmup-steps={} --optim=adafactor"
    )
    for words in (
        "base --model=deepseek-ai/deepseek-coder-1.3b-base --revision=c919139c",
        "--seed=42 --num-experts=8 --num-experts-per-tok=6",
        "--num-train-epochs=4.0 " + tuning.format("5e-05", 500),
        "--num-train-epochs=1.0 " + tuning.format("1e-05", 125),
        "--max-length=1024",
        "--lam 0.75",
    ):
        assert words in recipe
    assert "--max-steps" not in recipe


def test_vllm_generates_for_all_but_mixtures(recipe):
    found = {
        re.search(r"--model '?\S+?/deepseek-coder-1\.3b/([^ ']+)", command)[1]: re.search(
            r"--backend=(\w+)", command
        )[1]
        for command in commands(recipe, "eval")
    }
    dense = dict.fromkeys(["base", "sft", "uniform/lam~0.75", "dense/lam~0.75"], "vllm")
    assert found == dense | {"moe": "transformers", "moe_sft": "transformers"}


def test_one_rule_fetches_problems_and_the_others_are_given_the_files(recipe):
    fetched = "results/deepseek-coder-1.3b/problems/mbpp.jsonl"
    given = {
        (step, sets)
        for step in ("fetch_problems", "tokens", "ground_truth", "eval")
        for command in commands(recipe, step)
        for sets in re.findall(r"--(?:dataset|problems) ([^-]\S*(?: [^-]\S*)*)", command)
    }
    assert given == {
        ("fetch_problems", "mbpp"),
        ("tokens", f"{fetched} resources/problems.jsonl"),
        *((step, sets) for step in ("ground_truth", "eval") for sets in (fetched, SETS[1])),
    }


@NEEDS_LM_EVAL
def test_every_evaluated_model_is_measured_by_lm_eval(launches):
    found = commands(launches, "lm_eval")
    models = {re.search(r"--model '?results/([^ ']+)", command)[1] for command in found}
    assert models == {"base", "sft", "moe_sft", "uniform/lam~0.75", "dense/lam~0.75"}
    for command in found:
        assert "arc_easy 'my tasks.yaml'" in command and "--limit=3" in command
    inputs = re.search(r"rule summary:\n +input: (.*)", launches)[1].split(", ")
    assert {f"results/lm_eval/{model}/tasks.json" for model in models} <= set(inputs)


def jobs(shown: str) -> dict[str, str]:
    """What a dry run shows of the jobs, by rule; of the last one where there are several."""
    parts = re.split(r"\n(?:local)?rule ", shown)
    return {part.partition(":")[0]: part for part in parts[1:]}


def asked(job: str) -> dict[str, str]:
    """The threads, if more than one, and the resources of a job."""
    line = re.search(r"resources: (.+)", job)[1]
    threads = re.search(r"threads: (\d+)", job)
    return dict(item.split("=", 1) for item in line.split(", ")) | {
        "threads": threads[1] if threads else "1"
    }


@pytest.mark.parametrize(
    ("rule", "start", "wanted"),
    [
        (
            "moe_sft",
            "python -m xft.common.gpus 4 torchrun --standalone --nproc-per-node 4",
            {"threads": "4", "gpu": "4"},
        ),
        (
            "weighted_trained",
            "srun --nodes=3 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=2 "
            "bash -c 'exec python -m xft.common.gpus 2 torchrun --nnodes 3",
            {"threads": "2", "gpu": "6", "nodes": "3", "tasks": "3", "tasks_per_gpu": "0"},
        ),
        ("eval", "", {"threads": "1", "gpu": "1"}),
        ("moe", "", {"threads": "1"}),
    ],
)
def test_a_job_asks_for_what_its_launch_needs(launches, rule, start, wanted):
    job = jobs(launches)[rule]
    assert f"Shell command: {start}" in job and f" -m workflow_scripts.{rule} " in job
    found = asked(job)
    assert {name: found[name] for name in wanted} == wanted
    assert ("mpi" in found) == (rule == "weighted_trained")
    assert ("gpu" in found) == ("gpu" in wanted)


def test_another_attempt_asks_for_more_memory_and_time_unless_it_goes_on(launches, on_slurm):
    first, second = (
        {rule: asked(job) for rule, job in jobs(shown).items() if "mem_mb=" in job}
        for shown in (launches, on_slurm)
    )
    goes_on = {"moe_sft", "sft", "weighted_trained", "eval"}
    grow = (first.keys() & second.keys()) - {"base", "summary", "report"}
    assert grow >= goes_on | {"tokens", "moe", "dense", "ground_truth", "validation_loss"}
    for rule in grow:
        (mem, runtime), (more_mem, more_runtime) = (
            (int(found[rule]["mem_mb"]), int(found[rule]["runtime"])) for found in (first, second)
        )
        assert more_mem == int(1.5 * mem)
        assert more_runtime == (runtime if rule in goes_on else 2 * runtime)


def test_the_slurm_profile_caps_no_gpus_and_warns_trainings(on_slurm):
    found = asked(jobs(on_slurm)["moe_sft"])
    assert (found["gpu"], found["slurm_extra"]) == ("4", "--signal=TERM@300")
