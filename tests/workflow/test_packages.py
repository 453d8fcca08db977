"""Packages that only some options need: a run and a step by hand name them before all else."""

import tomllib
from pathlib import Path

import pytest
from chains import run_here
from mixtures import low_rank_mixture
from working_folder import fill, wants

from tools.write_envs import ROOT
from workflow_scripts import eval as evaluate
from xft.common import optional
from xft.common.errors import UserError

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ZERO3 = {"moe_sft": {"launch": "zero3", "processes": 2}}
EIGHT = {"sft": {"optim": "adamw_8bit"}, "evaluation": {"models": ["sft"]}}
SFT = {"sft": {"lora_rank": 4}, "evaluation": {"models": ["sft"]}}
LORA = {"moe": {"experts": "lora", "rank": 4, "train_rest": "lora"}}
# The configuration, the step with its flags, the option, and the package.
CASES = [
    (ZERO3, "moe_sft --moe none --launch zero3 --processes 2", "zero3", "deepspeed"),
    (EIGHT, "sft --base none --optim adamw_8bit", "adamw_8bit", "bitsandbytes"),
    (SFT, "sft --base none --lora-rank 4", "lora_rank", "peft"),
    (LORA, "moe_sft --moe mixture", "train_rest = lora", "peft"),
    ({"report_to": ["wandb"]}, "sft --base none --report-to wandb", "wandb", "wandb"),
]


@pytest.fixture(autouse=True)
def without_extras(place, monkeypatch):
    """A working folder, and an environment in which no extra is installed."""
    lines = [f'{pin}; extra == "{name}"' for name, pins in EXTRAS.items() for pin in pins]
    monkeypatch.setattr(optional, "requires", lambda name: lines)
    monkeypatch.setattr(optional, "is_installed", lambda package: False)


@pytest.mark.parametrize(("config", "step", "option", "package"), CASES)
def test_a_missing_package_is_named_with_its_command(config, step, option, package, tiny_llama):
    (pin,) = EXTRAS[package]
    message = rf"^{option} needs the package {package}, .* -m pip install {package}==[\d.]+$"
    run = wants(**config)
    with pytest.raises(UserError, match=message) as told:
        run.require_packages()
    assert str(told.value).endswith(pin)
    fill(run)
    run.require_packages()  # nothing is left to make
    if "mixture" in step:
        low_rank_mixture(tiny_llama, Path("mixture"), train_rest="lora")
    with pytest.raises(UserError, match=message):
        run_here(step.split()[0], [*step.split()[1:], "--data", "none", "--out", "out"])


def test_what_no_job_uses_needs_no_package():
    wants(sft={"lora_rank": 4, "launch": "zero3", "processes": 2}).require_packages()


@pytest.mark.parametrize(("url", "end"), [("s3://b", "The extra remote has it: "), ("gs://b", "")])
def test_the_package_of_a_url_is_named_before_the_run(url, end):
    with pytest.raises(UserError, match=rf"^{url[:5]} needs the package .* {end}.*pip install \w+"):
        wants(publish=url).check()


def test_vllm_needs_an_environment_of_its_own():
    words = "--model model --dataset problems.jsonl --sandbox none --backend vllm --out r.json"
    run, message = wants(evaluation={"backend": "vllm"}), "^vllm needs the package vllm, .* of its "
    for asked in (run.require_packages, lambda: evaluate.main(words.split())):
        with pytest.raises(UserError, match=f"{message}own: see .* docs/evaluation.md$"):
            asked()


def test_each_package_is_the_extra_of_its_name():
    """But for those with an environment of their own, and those of URLs."""
    options = optional.PACKAGES.keys() - optional.APART.keys() - {*optional.SCHEMES}
    named = {optional.PACKAGES[option][0] for option in options}
    assert EXTRAS.keys() - {"all", "workflow", "remote"} == named
