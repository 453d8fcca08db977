"""The measurement that a plan advises."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from xft.tools import plan

SWEPT = {
    "moe": {"num_experts": 4, "num_experts_per_tok": 2, "upcycled_layers": [3]},
    "base": {"model": "resources/base"},
    "data": {"train": "resources/instructions.jsonl", "limit": 64, "max_length": 64},
    "evaluation": {"models": ["moe_sft"], "datasets": ["resources/problems.jsonl"]},
    "seeds": [1, 2],
}
SWEEPS = {
    "short": {"moe_sft.learning_rate": [1e-3, 2e-3], "moe_sft.num_train_epochs": [1, 2]},
    "with a longer warm-up": {"moe_sft.warmup_steps": [0, 31]},
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_advised_command_measures_one_training_in_a_folder_of_its_own(
    new_project, sweep, capsys, monkeypatch
):
    project = new_project("speed")
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = SWEPT | {"data": SWEPT["data"] | {"decontaminate_against": []}}
    (project.folder / "mine.yaml").write_text(yaml.safe_dump(config | {"sweep": SWEEPS[sweep]}))
    words = ["--config", "mine.yaml"]
    plan.main(words)
    told = capsys.readouterr().out
    command = shlex.split(told.partition("To measure it: ")[2].partition("\n")[0])
    assert command[0] == "snakemake"
    about = {"env": project.environment | {"CUDA_VISIBLE_DEVICES": ""}, "check": True}
    subprocess.run(command, stdin=subprocess.DEVNULL, **about)
    assert len([*Path("store/moe_sft").iterdir()]) == 1
    assert [*Path("results").iterdir()] == [Path("results/speed")]
    plan.main(words)
    assert "To measure it" not in capsys.readouterr().out
