"""The rule `lm_eval`: which models are measured, and that it is asked for by the config alone."""

import re

import pytest

from xft.common import optional

pytestmark = pytest.mark.skipif(
    not optional.installed("lm_eval"), reason="needs the package lm_eval"
)


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("lm_eval")


def test_every_evaluated_model_is_measured(project):
    evaluation = {"models": ["base", "moe_sft", "dense"], "limit": 3}
    evaluation |= {"lm_eval": ["arc_easy", "my tasks.yaml"]}
    (project.folder / "my tasks.yaml").touch()
    done = project.snakemake("-np", evaluation=evaluation)

    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"python -m workflow_scripts\.lm_eval (.*)", done.stdout)
    models = ["base", "moe_sft", "dense/lam~0.75"]
    pattern = r"--model '?results/([^ ']+)'? "
    assert sorted(re.search(pattern, command)[1] for command in commands) == sorted(models)
    for command in commands:
        assert " --tasks arc_easy 'my tasks.yaml' " in command
        assert " --limit=3" in command
    inputs = re.search(r"rule summary:\n +input: (.*)", done.stdout)[1].split(", ")
    assert {f"results/lm_eval/{model}/tasks.json" for model in models} <= set(inputs)


def test_without_tasks_nothing_is_measured(project):
    assert "lm_eval" not in project.run("--dry-run")


def test_a_task_s_file_must_be_there(project):
    done = project.snakemake("-n", evaluation={"lm_eval": ["gone.yaml"]})

    assert done.returncode != 0
    assert "evaluation.lm_eval: there is no file gone.yaml" in done.stdout + done.stderr
