"""Launch options: what is refused, torchrun's command, and an engine that is not the one asked."""

import subprocess

import pytest

from workflow_scripts import moe_sft, weighted_trained
from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.config.training import fault_of_devices, precision_of
from xft.config.validation import complete, validated
from xft.training import launch
from xft.training.session import adopt_world

PLAIN = MoeSftConfig(precision="fp32")
ALLOWED = {
    "single": {},
    "ddp": {"launch": "ddp", "processes": 2},
    "ddp, two nodes": {"launch": "ddp", "nodes": 2},
    "ddp, adafactor": {"launch": "ddp", "processes": 2, "optim": "adafactor"},
    "ddp, bf16_pure": {"launch": "ddp", "processes": 2, "precision": "bf16_pure"},
    "zero2": {"launch": "zero2", "processes": 2, "precision": "bf16"},
    "zero3, mean": {"launch": "zero3", "processes": 2, "average_last": 3},
    "ddp, moving average": {"launch": "ddp", "processes": 2, "ema_decay": 0.9},
    "zero3, offload, one process": {"launch": "zero3", "offload_optimizer": True},
    "fsdp, offload": {"launch": "fsdp", "processes": 2, "offload_optimizer": True},
}
REFUSED = {
    "single, processes": ({"processes": 2}, "it runs one process"),
    "single, nodes": ({"nodes": 2}, "it runs one process"),
    "ddp, one process": ({"launch": "ddp"}, "needs at least two processes"),
    "fsdp, one process": ({"launch": "fsdp"}, "needs at least two processes"),
    "single, offload": ({"offload_optimizer": True}, "needs zero2, zero3 or fsdp"),
    "ddp, offload": (
        {"launch": "ddp", "processes": 2, "offload_optimizer": True},
        "needs zero2, zero3 or fsdp",
    ),
    "fsdp, adafactor": (
        {"launch": "fsdp", "processes": 2, "optim": "adafactor"},
        "adafactor fails on FSDP's shards",
    ),
    "zero2, adafactor": (
        {"launch": "zero2", "processes": 2, "optim": "adafactor"},
        "gives other results on flat shards",
    ),
    "zero3, adamw_8bit": (
        {"launch": "zero3", "processes": 2, "optim": "adamw_8bit"},
        "was not tried with shards. Choose adamw_torch_fused or adamw_torch, or ddp",
    ),
    "zero2, moving average": (
        {"launch": "zero2", "processes": 2, "ema_decay": 0.9},
        "Choose average_last with zero2 or zero3",
    ),
    "fsdp, mean": (
        {"launch": "fsdp", "processes": 2, "average_last": 3},
        "average_last was not tried with FSDP's shards",
    ),
    "zero3, bf16_pure": (
        {"launch": "zero3", "processes": 2, "precision": "bf16_pure"},
        "keeps fp32 master weights",
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_goes_together_is_allowed(case):
    MoeSftConfig(**ALLOWED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_what_excludes_each_other_is_refused_with_the_reason(case):
    changes, reason = REFUSED[case]
    with pytest.raises(UserError, match=rf"here: launch = \w+: .*{reason}"):
        validated(MoeSftConfig, changes, "here")


@pytest.mark.parametrize("section", ["moe_sft", "mixing"])
def test_a_config_is_refused_before_anything_runs(section):
    config = {"base": {"model": "x"}, "data": {"train": "y"}}
    complete(config | {section: {"launch": "ddp", "processes": 2}})
    with pytest.raises(UserError, match=f"config: {section}: launch = single"):
        complete(config | {section: {"processes": 2}})


def test_fsdp_needs_gpus_in_the_config():
    config = {"base": {"model": "x"}, "data": {"train": "y"}}
    config["moe_sft"] = {"launch": "fsdp", "processes": 2}
    complete(config | {"gpus": 1})
    with pytest.raises(UserError, match="moe_sft, gpus = 0: launch = fsdp: it needs GPUs"):
        complete(config)


def test_mixing_shards_nothing():
    config = {"base": {"model": "x"}, "data": {"train": "y"}, "mixing": {"launch": "zero3"}}
    with pytest.raises(UserError, match=r"mixing\.launch"):
        complete(config)


@pytest.mark.parametrize("gpus", [0, 2, 3])
def test_each_process_has_a_gpu_or_none_has(gpus):
    two = MoeSftConfig(launch="ddp", processes=2)
    assert fault_of_devices(two, gpus) is None
    assert fault_of_devices(two, 1).endswith("each process needs a GPU, and there are 1")


@pytest.mark.parametrize(
    ("step", "flags"),
    [
        (moe_sft, ["--moe", "moe", "--data", "rows", "--out", "out"]),
        (
            weighted_trained,
            ["--weighted", "w", "--moe", "moe", "--ffn", "ffn", "--data", "rows", "--out", "out"],
        ),
    ],
    ids=["moe_sft", "weighted_trained"],
)
def test_a_step_refuses_before_it_reads_anything(step, flags):
    with pytest.raises(UserError, match="command line: launch = single: it runs one process"):
        step.main([*flags, "--processes", "2"])


def test_fsdp_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["--moe", "moe", "--data", "rows", "--out", "out", "--launch", "fsdp"]
    with pytest.raises(UserError, match="fsdp: it needs GPUs, and there are none"):
        moe_sft.main([*words, "--processes", "2"])


def test_the_command_for_one_node():
    options = MoeSftConfig(launch="ddp", processes=4)
    expected = "torchrun --standalone --nproc-per-node 4 --shutdown-timeout 3600"
    assert launch.torchrun(options) == expected


SLURM = {"SLURM_STEP_NODELIST": "n[7-8]", "SLURM_JOB_ID": "54321"}


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        (SLURM, f"n7:{12000 + 54321 % 20000}"),
        (SLURM | {"MASTER_ADDR": "here", "MASTER_PORT": "7"}, "here:7"),
    ],
    ids=["first node", "given"],
)
def test_the_command_for_the_nodes_of_a_slurm_step(tmp_path, environment, endpoint):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[7-8]" ] && echo n7 && echo n8\n')
    scontrol.chmod(0o755)
    done = shell(launch.torchrun(TWO_NODES), environment | {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    words = "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-id 54321 --rdzv-endpoint"
    ending = "--nproc-per-node 8 --shutdown-timeout 3600"
    assert done.stdout == f"{words} {endpoint} {ending}\n"


def test_several_nodes_need_srun():
    done = shell(launch.torchrun(TWO_NODES), {"PATH": "/usr/bin:/bin"})
    assert "SLURM_STEP_NODELIST: is not set: several nodes need srun" in done.stderr


TWO_NODES = MoeSftConfig(launch="zero3", processes=8, nodes=2)


def shell(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """What a shell makes of a command's words."""
    script = f"set -euo pipefail; echo {command}"
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3, offload, one process"])
def test_a_step_says_how_torchrun_starts_it(name):
    options = ALLOWED[name]
    flags = [f"--{key}={value}" for key, value in options.items() if key != "offload_optimizer"]
    words = ["--moe", "moe", "--data", "rows", "--out", "out", *flags]
    count = options.get("processes", 1)
    command = rf"torchrun --standalone --nproc-per-node {count} .* -m workflow_scripts\.moe_sft$"
    with pytest.raises(UserError, match=f"Begin the command with: {command}"):
        moe_sft.main(words)


def test_processes_of_an_outside_launcher_train_by_ddp():
    world = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    adopted = adopt_world(PLAIN, world)
    assert adopted == MoeSftConfig(launch="ddp", processes=2, nodes=2, precision="fp32")
    assert adopt_world(PLAIN, {"RANK": "0", "WORLD_SIZE": "1"}) == PLAIN
    assert adopt_world(PLAIN, {}) == PLAIN


def test_another_number_of_processes_than_asked_for_is_refused():
    asked = MoeSftConfig(launch="zero2", processes=4)
    assert adopt_world(asked, {"RANK": "0", "WORLD_SIZE": "4"}) == asked
    with pytest.raises(UserError, match="2 processes were launched, but processes x nodes is 4"):
        adopt_world(asked, {"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("stated", "has_bf16", "expected"),
    [
        ("auto", True, "bf16"),
        ("auto", False, "fp32"),
        ("fp32", True, "fp32"),
        ("bf16", False, "bf16"),
    ],
)
def test_the_precision_is_the_gpus_unless_it_is_stated(stated, has_bf16, expected):
    assert precision_of(MoeSftConfig(precision=stated), has_bf16) == expected
