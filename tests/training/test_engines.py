"""What the engines are told, and the check that the one that runs is the one asked for."""

import math
import subprocess
import sys

import pytest
import torch
from chains import Chain
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.training import engines
from xft.training.checkpoints import Checkpoints
from xft.training.trainer import Training, train

OPTIONS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 0.1,
}


@pytest.fixture
def train_with(tiny_llama, tmp_path):
    """Callable (**options): train a mixture for a step."""

    def run(**options):
        folder = Chain(tmp_path, base=tiny_llama)["moe"]
        model = AutoModelForCausalLM.from_pretrained(folder)
        rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "row": 1}] * 2
        return train(
            Training(
                model,
                rows,
                AutoTokenizer.from_pretrained(folder),
                MoeSftConfig(**OPTIONS | options),
                seed=0,
                checkpoints=Checkpoints(tmp_path / "out", "none", math.inf),
            )
        )

    return run


def test_one_process_is_what_runs(train_with):
    assert "lm_head.weight" in train_with()


def test_an_engine_that_does_not_run_is_told(train_with):
    fault = r"DistributedDataParallel \(running: none\)\."
    with pytest.raises(UserError, match=f"launch = ddp did not take effect. Asked for: {fault}"):
        train_with(launch="ddp", processes=2)


@pytest.mark.parametrize("offload", [False, True], ids=["on the GPU", "offloaded"])
def test_fsdp_arguments(offload, tmp_path):
    """FSDP2 of each decoder layer, and whole state dicts, as accelerate's plugin takes them."""
    settings = MoeSftConfig(launch="fsdp", processes=2, offload_optimizer=offload)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, **engines.engine_arguments(settings)
    )
    plugin = arguments.fsdp_plugin_args
    assert plugin["fsdp_version"] == 2
    assert plugin["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert plugin["state_dict_type"] == "FULL_STATE_DICT"
    assert plugin["reshard_after_forward"] is True
    assert plugin.get("cpu_offload", False) is offload


@pytest.mark.parametrize("launch", ["zero2", "zero3"])
@pytest.mark.parametrize("offload", [False, True], ids=["on the GPU", "offloaded"])
def test_zero_arguments(launch, offload):
    settings = MoeSftConfig(launch=launch, processes=2, offload_optimizer=offload)
    config = engines.engine_arguments(settings)["deepspeed"]
    assert "optimizer" not in config  # torch's, as asked for, not one that DeepSpeed compiles
    assert config["zero_optimization"]["stage"] == int(launch[-1])
    assert ("offload_optimizer" in config["zero_optimization"]) is offload


def test_masters_are_set_only_where_bf16_is_not_exact():
    model = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(model.weight, 1 + 2**-20)
    torch.nn.init.constant_(model.bias, 0.5)
    settings = MoeSftConfig(launch="zero3", processes=2, precision="bf16")
    kept = engines.inexact_in_bf16(model, settings)
    assert list(kept) == ["weight"]
    model.weight.data.zero_()
    assert kept["weight"].min() == 1 + 2**-20
    assert engines.inexact_in_bf16(model, settings.model_copy(update={"precision": "fp32"})) == {}
    assert engines.inexact_in_bf16(model, settings.model_copy(update={"launch": "ddp"})) == {}


EVIL = """
import os, sys
from pathlib import Path
import torch
from xft.config.sections import MoeSftConfig
from xft.training import engines

class Evil:
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[1] + ".touched"),)

engines.load_extensions = lambda offload: None  # nothing is communicated
engines.prepare_engine(MoeSftConfig(launch="zero2"))
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
torch.save({"weight": torch.ones(2)}, sys.argv[1])
print(TorchCheckpointEngine().load(sys.argv[1]))
torch.save(Evil(), sys.argv[1])
TorchCheckpointEngine().load(sys.argv[1])
"""


@pytest.mark.ci
def test_deepspeed_runs_no_code_of_a_checkpoint(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EVIL, str(tmp_path / "states.pt")],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert "tensor([1., 1.])" in done.stdout
    assert "Weights only load failed" in done.stderr
    assert not (tmp_path / "states.pt.touched").exists()
