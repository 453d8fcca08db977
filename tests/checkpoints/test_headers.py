"""The strict check of safetensors headers and of the index of shards."""

import json
import pickle
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workflow_scripts.checkpoints.header import read_tensors
from workflow_scripts.checkpoints.reader import INDEX_FILE, SINGLE_FILE, Checkpoint
from workflow_scripts.common.errors import UserError

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
V = {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}


def write(path, header, values=bytes(12)):
    """A safetensors file with any header: an object, or text as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / SINGLE_FILE


def test_a_sound_header_names_its_tensors(file):
    write(file, {"__metadata__": {"format": "pt"}, "v": V, "w": W})
    assert read_tensors(file).keys() == {"w", "v"} == set(load_file(file))


@pytest.mark.parametrize("shape", [[0], [5, 0], [0, 2**62, 2**62]])
def test_empty_tensors_may_stand_anywhere(file, shape):
    empty = {"dtype": "F64", "shape": shape}
    ends = {f"e{at}": empty | {"data_offsets": [at, at]} for at in (0, 8, 12)}
    assert read_tensors(write(file, {"w": W, "v": V} | ends)).keys() == {"w", "v", *ends}


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (None, "is not described by dtype, shape and data_offsets"),
        ({"dtype": "F32", "shape": [2]}, "is not described by"),
        (W | {"more": 1}, "is not described by"),
        (W | {"dtype": "F4"}, "is of the unknown type 'F4'"),
        (W | {"dtype": ["F32"]}, r"is of the unknown type \['F32'\]"),
        (W | {"dtype": "x" * 10**6}, "is of the unknown type 'xxx"),
        (W | {"shape": 2}, "has a shape that is not a list of sizes"),
        (W | {"shape": [2.0]}, "has a shape that is not a list of sizes"),
        (W | {"shape": [True, 2]}, "has a shape that is not a list of sizes"),
        (W | {"shape": [-1, -2]}, "has a shape that is not a list of sizes"),
        (W | {"shape": ["2"]}, "has a shape that is not a list of sizes"),
        (W | {"shape": [3]}, "has offsets that do not fit its shape"),
        (W | {"shape": [2**64]}, "has offsets that do not fit its shape"),
        (W | {"shape": [10**4000] * 1000}, "has offsets that do not fit its shape"),
        (W | {"dtype": "F64"}, "has offsets that do not fit its shape"),
        (W | {"data_offsets": [0]}, "has data_offsets other than a begin and an end"),
        (W | {"data_offsets": [0, 8, 8]}, "has data_offsets other than a begin and an end"),
        (W | {"data_offsets": [0.0, 8.0]}, "has data_offsets other than a begin and an end"),
        (W | {"data_offsets": [-8, 0]}, "has data_offsets other than a begin and an end"),
        (W | {"data_offsets": [8, 0]}, "has offsets that do not fit its shape"),
        (W | {"data_offsets": [8, 16]}, "ends beyond the file"),
        (W | {"data_offsets": [1, 9]}, "'w' begins at byte 1, not 0"),
        (W | {"data_offsets": [4, 12]}, "'w' begins at byte 4, not 0"),
    ],
)
def test_a_wrong_entry_is_refused(file, entry, fault):
    with pytest.raises(UserError, match=f"{file} is not a whole safetensors file: '?w?'? ?{fault}"):
        read_tensors(write(file, {"v": V, "w": entry}))


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ({"w": W}, "12 bytes follow its header, not 8"),
        ({}, "12 bytes follow its header, not 0"),
        ({"w": W, "u": W, "v": V}, "'w' begins at byte 0, not 8"),
        ({"__metadata__": {"format": 1}, "w": W, "v": V}, "its __metadata__ does not hold texts"),
        ({"__metadata__": ["pt"], "w": W, "v": V}, "its __metadata__ does not hold texts"),
        (b"", "its header is not valid JSON"),
        (b"{", "its header is not valid JSON"),
        (b'{"a\xff": 1}', "its header is not valid JSON"),
        (b"[" * 10**6, "its header is not valid JSON: it is nested too deeply"),
        (b'{"w": ' * 10**5, "its header is not valid JSON: it is nested too deeply"),
        (b"9" * 5000, "its header is not valid JSON"),
        (b"[1]", "its header does not hold a JSON object"),
        (b'{"w": 1, "w": 2}', "its header is not valid JSON: the key 'w' appears twice"),
        (b'{"w": {"dtype": 1, "dtype": 2}}', "the key 'dtype' appears twice"),
        (b'{"w": NaN}', "'w' is not described by"),
    ],
)
def test_a_wrong_header_is_refused(file, header, fault):
    with pytest.raises(UserError, match=f"{file} is not a whole safetensors file: .*{fault}"):
        read_tensors(write(file, header))


@pytest.mark.parametrize("length", [11, 2**20, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_length_beyond_the_file_is_refused(file, length):
    file.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(8))
    with pytest.raises(UserError, match=f"its 18 bytes cannot hold a header of {length}"):
        read_tensors(file)


def test_a_header_of_more_than_100_mb_is_refused_even_if_it_is_there(file):
    with file.open("wb") as handle:
        handle.write((10**8 + 1).to_bytes(8, "little"))
        handle.truncate(10**8 + 100)
    with pytest.raises(UserError, match="cannot hold a header of 100000001"):
        read_tensors(file)


def save_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")


@pytest.mark.parametrize(
    ("save", "what"),
    [
        (lambda path: torch.save({"w": torch.zeros(2)}, path), "a zip"),
        (save_zip, "a zip"),
        *(
            (lambda path, p=protocol: path.write_bytes(pickle.dumps({"w": [1.0]}, p)), "a pickle")
            for protocol in (2, 3, 4, 5)
        ),
        (
            lambda path: torch.save(
                {"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False
            ),
            "a pickle",
        ),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x"),
            "a pointer of Git LFS",
        ),
    ],
)
def test_what_is_called_safetensors_and_is_not_is_told_as_such(tmp_path, file, save, what):
    save(file)
    with pytest.raises(UserError, match=re.escape(f"{file} is {what}, not safetensors; ")):
        Checkpoint(tmp_path)


def test_the_work_grows_with_the_number_of_tensors_and_not_with_its_square(file):
    few, many = (lines_to_check(file, count) for count in (100, 2000))
    assert 10 * few < many < 40 * few


def lines_to_check(file: Path, count: int) -> int:
    """The lines of code that run to check a header of so many tensors."""
    header = {
        f"model.layers.{i}.mlp.experts.down_proj.weight": {
            "dtype": "BF16",
            "shape": [2, 3],
            "data_offsets": [12 * i, 12 * i + 12],
        }
        for i in range(count)
    }
    write(file, header, bytes(12 * count))
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert len(read_tensors(file)) == count
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_all_dtypes_that_torch_saves_are_known(file, dtype):
    save_file({"w": torch.zeros(3).to(dtype)}, file)
    assert read_tensors(file).keys() == {"w"}


# The index


@pytest.fixture
def shards(tmp_path):
    """Callable (weight_map): a folder of shards a (v, w) and b (x), and an index."""
    save_file({"v": torch.zeros(2), "w": torch.zeros(2)}, tmp_path / "a")
    save_file({"x": torch.zeros(2)}, tmp_path / "b")

    def put(weight_map):
        (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
        return tmp_path

    return put


def test_a_sound_index_says_where_tensors_are(shards):
    assert Checkpoint(shards({"v": "a", "w": "a", "x": "b"})).files == ["a", "b"]


@pytest.mark.parametrize(
    ("weight_map", "fault"),
    [
        ({"v": "a", "w": "b", "x": "b"}, "a holds w, which .*index.json puts in b"),
        ({"v": "a", "w": "a", "x": "a"}, "a lacks x, which the index puts there"),
        ({"v": "a", "x": "b"}, "a holds w, which .*index.json puts in no file"),
        ({"v": "a", "w": "a", "x": "b", "y": "b"}, "b lacks y, which the index puts there"),
        ({"v": "a", "w": "a", "x": "b", "y": "c"}, "c is missing"),
    ],
)
def test_tensors_that_the_index_puts_elsewhere_are_refused(shards, weight_map, fault):
    with pytest.raises(UserError, match=fault):
        Checkpoint(shards(weight_map))


def test_a_tensor_in_two_shards_is_refused(shards, tmp_path):
    save_file({"x": torch.zeros(2), "w": torch.ones(2)}, tmp_path / "b")
    with pytest.raises(UserError, match=r"b holds w, which .*index\.json puts in a"):
        Checkpoint(shards({"v": "a", "w": "a", "x": "b"}))


def test_an_index_with_a_key_twice_is_refused(shards, tmp_path):
    shards({})
    (tmp_path / INDEX_FILE).write_text('{"weight_map": {"w": "a", "v": "a", "x": "b", "x": "a"}}')
    with pytest.raises(UserError, match=r"index\.json is not valid JSON: the key 'x' appears"):
        Checkpoint(tmp_path)


def test_links_to_shards_elsewhere_are_read(shards, tmp_path):
    """The artifact of step `base` is nothing but links."""
    folder = tmp_path / "links"
    folder.mkdir()
    for file in shards({"v": "a", "w": "a", "x": "b"}).iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    assert Checkpoint(folder).names == ["v", "w", "x"]
