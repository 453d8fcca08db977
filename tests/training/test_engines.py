"""What DeepSpeed gets and reads. tests/slow/test_launch.py runs the engines."""

from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from xft.config.sections import MoeSftConfig
from xft.training import engines


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
