"""Headers of safetensors, the index of shards, and files that were written to deceive."""

import json
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from xft.artifacts.manifest import read_manifest
from xft.checkpoints.model_files import INDEX_FILE, SINGLE_FILE, read_tensors
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.common.json_files import read_json
from xft.common.system import limited

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


READERS = (read_json, read_manifest, read_tensors)
JSON_TRAPS = {
    "deep lists": b'{"a": ' + b"[" * 200_000,
    "deep and closed": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a long number": b'{"a": ' + b"1" * 10_000 + b"}",
    "many keys, one twice": json.dumps({str(i): i for i in range(50_000)}).encode()[:-1]
    + b', "49999": 1}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": b'{"a": 1}\0',
}


@pytest.mark.parametrize("trap", JSON_TRAPS)
def test_json_traps_are_refused_by_every_reader(tmp_path, trap):
    file, content = tmp_path / "file", JSON_TRAPS[trap]
    length = len(content).to_bytes(8, "little")
    for read in READERS:
        file.write_bytes(length + content if read is read_tensors else content)
        with pytest.raises(UserError, match=str(file)):
            read(file)


LENGTHS = [(11, 18), (90_000_000, 100), (2**64 - 1, 18), (10**8 + 1, 10**8 + 9)]


@pytest.mark.parametrize(("length", "size"), LENGTHS)
def test_huge_lengths_cost_no_memory(tmp_path, length, size):
    """Sizes are checked before anything is read. The largest file is a hole: it takes no place on
    the disk.
    """
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(size)
    for read in READERS:
        fault = f"{size} bytes cannot hold a header of {length} b" if read is read_tensors else ""
        with pytest.raises(UserError, match=f"{path}.*{fault}"), limited(20, 50 * 2**20):
            read(path)
