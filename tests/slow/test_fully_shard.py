"""The mixture under torch's FSDP2 learns what it learns whole.

On a CPU accelerate never chooses FSDP, so torch's `fully_shard` is applied as accelerate would on
GPUs: to each decoder layer, then to the model. torchrun runs this file in each of two processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_for
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import AutoModelForCausalLM

import workflow_scripts.modeling  # noqa: F401
from workflow_scripts.training.launch import end_process
from workflow_scripts.training.losses import LabelledLoss

pytestmark = pytest.mark.slow
STEPS, ROWS, LENGTH = 8, 4, 24


def learn(folder: Path, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Train on this process's part of each batch; the whole weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    loss_of = LabelledLoss(model)
    if world > 1:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        assert isinstance(model, FSDPModule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        ids = torch.randint(3, 290, (ROWS, LENGTH), generator=generator)
        tokens = ROWS * (LENGTH - 1)
        part = ids[rank::world]
        batch = {"input_ids": part, "labels": part, "num_items_in_batch": tokens}
        loss = model(**batch, **loss_of.options(part)).loss
        (loss * world).backward()  # FSDP averages over the processes
        optimizer.step()
        optimizer.zero_grad()
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def test_two_shards_learn_what_the_whole_learns(tiny_llama, tmp_path, repository):
    folder = tmp_path / "moe"
    words = ["--base", str(tiny_llama), "--out", str(folder), "--num-experts", "4"]
    plain = ["--no-router-noise", "--balance-loss-coef", "0"]
    assert run_for("moe", [*words, "--num-experts-per-tok", "2", *plain])
    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(2)
    tensors = load_file(file)
    for name in sorted(name for name in tensors if ".experts." in name):
        tensors[name] += 0.02 * torch.randn(tensors[name].shape, generator=generator)
    file.unlink()
    save_file(tensors, file)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [__file__, str(folder), str(tmp_path / "sharded.safetensors")],
        env=os.environ | {"PYTHONPATH": f"{repository}:{repository / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    whole, sharded = learn(folder, 0, 1), load_file(tmp_path / "sharded.safetensors")
    assert whole.keys() == sharded.keys()
    for name, tensor in whole.items():
        error = torch.linalg.vector_norm(sharded[name] - tensor)
        assert error <= 1e-6 * torch.linalg.vector_norm(tensor), name
        assert name.endswith("norm.weight") or not torch.equal(tensor, tensors[name])


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    state = learn(Path(sys.argv[1]), rank, torch.distributed.get_world_size())
    if rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, sys.argv[2])
    end_process()
