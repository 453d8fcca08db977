"""What DeepSpeed gets and reads. tests/slow/test_launch.py runs the engines."""

from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from xft.config.sections import MoeSftConfig
from xft.training import engines


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


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.ci
def test_deepspeed_runs_no_code_of_a_checkpoint(tmp_path, monkeypatch):
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setattr(engines, "load_extensions", lambda offload: None)  # nothing communicates
    engines.prepare_engine(MoeSftConfig(launch="zero2"))
    states, touched = tmp_path / "states.pt", tmp_path / "touched"
    torch.save({"weight": torch.ones(2)}, states)
    assert TorchCheckpointEngine().load(str(states))["weight"].tolist() == [1, 1]
    torch.save(Evil(touched), states)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        TorchCheckpointEngine().load(str(states))
    assert not touched.exists()
