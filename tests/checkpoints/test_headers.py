"""The checks of safetensors headers and of the index of shards."""

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from xft.checkpoints.header import read_tensors
from xft.checkpoints.reader import INDEX_FILE, SINGLE_FILE, Checkpoint
from xft.common.errors import UserError

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
V = {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}


def write(path, header, values=bytes(12)):
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / SINGLE_FILE


def test_a_wrong_header_is_refused(file):
    """One short line names the file, the library's reason, and what to do."""
    for header, fault in (
        ({"v": V, "w": W | {"dtype": "x" * 10**6}}, "unknown variant `xxx"),
        ({"v": V, "w": W | {"data_offsets": [1, 9]}}, "invalid offset for tensor `w`"),
    ):
        with pytest.raises(UserError) as caught:
            read_tensors(write(file, header))
        start = f"{file} is not a whole safetensors file: safetensors says "
        assert str(caught.value).startswith(start)
        assert re.search(fault, str(caught.value))
        assert str(caught.value).endswith(". Fetch it or make it again")
        assert len(str(caught.value)) < len(start) + 250


def test_a_type_of_less_than_a_byte_is_refused(file):
    """safetensors knows it."""
    write(file, {"w": {"dtype": "F4", "shape": [24], "data_offsets": [0, 12]}})
    with pytest.raises(UserError, match=f"{file}: 'w' is of the type F4, which is not supported"):
        read_tensors(file)


def test_what_is_called_safetensors_and_is_not_is_told_as_such(tmp_path, file):
    def refuse(what):
        with pytest.raises(UserError, match=re.escape(f"{file} is {what}, not safetensors; ")):
            Checkpoint(tmp_path)

    torch.save({"w": torch.zeros(2)}, file)
    refuse("a zip")
    file.write_bytes(pickle.dumps({"w": [1.0]}))
    refuse("a pickle")
    file.write_text("version https://git-lfs.github.com/spec/v1\noid x")
    refuse("a pointer of Git LFS")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_all_dtypes_that_torch_saves_are_known(file, dtype):
    save_file({"w": torch.zeros(3).to(dtype)}, file)
    assert read_tensors(file).keys() == {"w"}


# The index


def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path):
    """Shard a holds v and w, b holds x."""
    save_file({"v": torch.zeros(2), "w": torch.zeros(2)}, tmp_path / "a")
    save_file({"x": torch.zeros(2)}, tmp_path / "b")
    for weight_map, fault in (
        ({"v": "a", "w": "b", "x": "b"}, "a holds w, which .*index.json puts in b"),
        ({"v": "a", "w": "a", "x": "a"}, "a lacks x, which the index puts there"),
        ({"v": "a", "w": "a", "x": "b", "y": "c"}, "c is missing"),
        (["x"], "has no weight_map"),
        ({"w": "../x"}, "names '../x', which is not inside its folder"),
        ({"w": ["x"]}, r"names \['x'\], which is not inside its folder"),
        ({"w": "\0"}, "which is not inside its folder"),
        ({"w": "\ud800"}, "is missing"),
    ):
        (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=fault):
            Checkpoint(tmp_path)
