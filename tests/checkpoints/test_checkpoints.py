"""Our streaming writer and lazy reader against safetensors' and transformers' own."""

import errno
import hashlib
import os
import shutil
import threading
import weakref
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from xft.checkpoints import writer
from xft.checkpoints.model_files import SINGLE_FILE
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorSpec, write_checkpoint

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U8": torch.uint8, "BOOL": torch.bool}
SHAPES = {"scalar": (), "empty": (0, 4), "odd": (3,), "matrix": (5, 7), "stack": (2, 3, 4)}
TENSORS = {
    f"{dtype}.{name}": (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 9).to(kind)
    for dtype, kind in DTYPES.items()
    for name, shape in SHAPES.items()
}
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """What a thread writes and hashes at once. No thread is left at the end."""
    monkeypatch.setattr(writer, "PIECE_BYTES", 100)
    monkeypatch.setattr(writer, "WRITE_BYTES", 30)
    yield
    assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]


def spec(name: str, tensor: torch.Tensor, dtype: str) -> TensorSpec:
    return TensorSpec(name, dtype, tuple(tensor.shape), lambda: [tensor])


def test_safetensors_reads_what_we_write(tmp_path):
    specs = [spec(name, tensor, name.split(".")[0]) for name, tensor in TENSORS.items()]
    write_checkpoint(tmp_path, specs)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]
    header_length = int.from_bytes((tmp_path / SINGLE_FILE).read_bytes()[:8], "little")
    assert header_length % 8 == 0  # so that values are aligned
    assert_same(load_file(tmp_path / SINGLE_FILE), TENSORS)


def test_we_read_what_safetensors_writes(tmp_path):
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.names == sorted(TENSORS)
    assert "F32.odd" in checkpoint and "F32.even" not in checkpoint
    assert_same({name: checkpoint.get(name) for name in checkpoint.names}, TENSORS)
    for name, tensor in TENSORS.items():
        assert checkpoint.dtype(name) == name.split(".")[0]
        assert checkpoint.shape(name) == tuple(tensor.shape)


def test_our_shards_load_in_transformers(tmp_path, tiny_llama):
    specs = [spec(name, t, "F32") for name, t in load_file(tiny_llama / SINGLE_FILE).items()]
    written = write_checkpoint(tmp_path, specs, max_shard_bytes=40_000)
    shutil.copy(tiny_llama / "config.json", tmp_path)
    for name in written:
        tensors = load_file(tmp_path / name)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 40_000
        content = (tmp_path / name).read_bytes()
        expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert written[name] == expected
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same(dict(model.state_dict()), load_file(tiny_llama / SINGLE_FILE))


def test_we_read_the_shards_of_transformers(tmp_path, tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    checkpoint = Checkpoint(tmp_path)
    assert len(checkpoint.files) > 2
    assert checkpoint.files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert checkpoint.config["model_type"] == "llama"
    found = {name: checkpoint.get(name) for name in checkpoint.names}
    assert_same(found, load_file(tiny_llama / SINGLE_FILE))


def test_chunks_are_written_one_after_the_other_and_let_go(tmp_path):
    stack = torch.randn(20, 3, 5)
    alive, most = weakref.WeakSet(), []

    def chunks():
        for part in stack:
            most.append(len(alive))
            copy = part.T.contiguous().T  # not contiguous: its values are, its bytes are not
            alive.add(copy)
            yield copy

    write_checkpoint(tmp_path, [TensorSpec("stack", "F32", tuple(stack.shape), chunks)])
    assert torch.equal(load_file(tmp_path / SINGLE_FILE)["stack"], stack)
    assert max(most) <= 2


@pytest.mark.parametrize("count", [1, 3])
def test_chunks_that_do_not_fill_the_tensor_are_refused(tmp_path, count):
    wrong = TensorSpec("w", "F32", (2, 4), lambda: [torch.zeros(4)] * count)
    with pytest.raises(ValueError, match=f"w: {16 * count} bytes for a tensor of 32"):
        write_checkpoint(tmp_path, [wrong])


def test_an_error_of_the_disk_or_of_the_hash_is_raised(tmp_path, monkeypatch):
    for module, name, broken, error in (
        (os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")), OSError),
        (hashlib, "sha256", Mock(**{"return_value.update.side_effect": MemoryError}), MemoryError),
    ):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(module, name, broken)
            write_checkpoint(tmp_path, [spec("w", torch.ones(1001), "F32")])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_no_thread(tmp_path, stop):
    def chunks():
        yield torch.ones(500)
        raise stop

    with pytest.raises(stop):
        write_checkpoint(tmp_path, [TensorSpec("w", "F32", (1001,), chunks)])
