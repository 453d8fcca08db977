"""Launch options: what is refused, and torchrun's command."""

import subprocess

import pytest

from workflow_scripts import moe_sft
from xft.common import optional
from xft.common.errors import UserError
from xft.common.system import torchrun
from xft.config.reading import complete, validated
from xft.config.sections import MoeSftConfig
from xft.config.training import fault_of_devices, precision_of
from xft.training.session import on_this_machine

DDP = {"launch": "ddp", "processes": 2}
FSDP, ZERO2, ZERO3 = (DDP | {"launch": name} for name in ("fsdp", "zero2", "zero3"))
ALLOWED = [{"launch": "ddp", "nodes": 2}, {"launch": "zero3", "offload_optimizer": True}]
ALLOWED += [FSDP | {"offload_optimizer": True}, DDP | {"precision": "bf16_pure"}]
ALLOWED += [DDP | {"optim": "adafactor", "ema_decay": 0.9}]
REFUSED = [
    ({"processes": 2}, "it runs one process"),
    ({"nodes": 2}, "it runs one process"),
    ({"launch": "fsdp"}, "needs at least two processes"),
    (DDP | {"offload_optimizer": True}, "needs zero2, zero3 or fsdp"),
    (FSDP | {"optim": "adafactor"}, "adafactor may fail on shards"),
    (ZERO2 | {"optim": "adafactor"}, "or change results"),
    (ZERO3 | {"optim": "adamw_8bit"}, "may fail .* adamw_torch_fused or adamw_torch, or ddp"),
    (ZERO2 | {"ema_decay": 0.9}, "Choose single or ddp"),
    (ZERO3 | {"precision": "bf16_pure"}, "keeps fp32 master weights"),
]


def test_what_excludes_each_other_is_refused_with_the_reason():
    for changes, reason in REFUSED:
        with pytest.raises(UserError, match=rf"here: .*launch = \w+.*{reason}"):
            validated(MoeSftConfig, changes, "here")
    for allowed in ALLOWED:
        MoeSftConfig(**allowed)


def test_the_global_batch_is_of_all_processes_of_all_nodes():
    rows = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    for launch, expected in (({}, 6), (DDP, 12), (DDP | {"nodes": 5}, 60)):
        assert MoeSftConfig(**rows, **launch).global_batch == expected


def test_a_config_is_refused_before_anything_runs():
    for section, changes, fault in (
        ("moe_sft", FSDP, "config: moe_sft, gpus = 0: launch = fsdp: it needs GPUs"),
        ("mixing", {"launch": "zero3"}, r"mixing\.launch"),
    ):
        config = {"base": {"model": "x"}, "data": {"train": "y"}}
        complete(config | {section: DDP})
        with pytest.raises(UserError, match=fault):
            complete(config | {section: changes})


def test_each_process_has_a_gpu_or_none_has():
    two = MoeSftConfig(**DDP)
    assert fault_of_devices(two, 0) is fault_of_devices(two, 2) is fault_of_devices(two, 3) is None
    assert fault_of_devices(two, 1).endswith("each process needs a GPU, and there are 1")


def test_a_step_that_torchrun_must_start_refuses_before_it_reads_anything(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(optional, "is_installed", lambda package: True)
    command = r"torchrun --standalone --nproc-per-node 1 --shutdown-timeout 3600"
    with pytest.raises(UserError, match=rf"Begin the .*: {command} -m workflow_scripts\.moe_sft$"):
        moe_sft.main(["--moe", "moe", "--data", "rows", "--out", "out", "--launch", "zero3"])


def test_several_nodes_need_srun():
    words = ["bash", "-euo", "pipefail", "-c", f"echo {torchrun(8, nodes=2)}"]
    done = subprocess.run(words, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert "SLURM_STEP_NODELIST: is not set: several nodes need srun" in done.stderr


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert on_this_machine(MoeSftConfig(**ZERO2), "moe_sft").launch == "zero2"
    with pytest.raises(UserError, match="2 processes were launched, but processes x nodes is 4"):
        on_this_machine(MoeSftConfig(launch="zero2", processes=4), "moe_sft")
    with pytest.raises(UserError, match="launch = single: 2 processes were launched"):
        on_this_machine(MoeSftConfig(), "moe_sft")


def test_the_precision_is_the_gpus_unless_it_is_stated():
    for stated, has_bf16, expected in (("auto", True, "bf16"), ("auto", False, "fp32")):
        assert precision_of(MoeSftConfig(precision=stated), has_bf16) == expected
    assert precision_of(MoeSftConfig(precision="fp32"), True) == "fp32"
