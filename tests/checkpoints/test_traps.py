"""Files that were written to deceive: refused with a UserError that names them."""

import json

import pytest
from interpreter import python

from xft.artifacts.manifest import read_manifest
from xft.checkpoints.header import read_tensors
from xft.checkpoints.reader import read_json
from xft.common.errors import UserError

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
    for read, start in ((read_json, b""), (read_manifest, b""), (read_tensors, length)):
        file.write_bytes(start + content)
        with pytest.raises(UserError) as caught:
            read(file)
        assert str(file) in str(caught.value)


# What a process with little memory survives: sizes are checked before anything is read.
FRUGAL = """
import resource, sys
from pathlib import Path
from xft.checkpoints.header import read_tensors
from xft.artifacts.manifest import read_manifest
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20,) * 2)
for name, read in zip(sys.argv[2:], (read_tensors, read_json, read_manifest), strict=True):
    file = Path(sys.argv[1]) / name
    try:
        read(file)
    except UserError as error:
        assert str(file) in str(error)
        print("refused")
"""


@pytest.mark.parametrize(
    ("length", "size"),
    [(90_000_000, 100), (2**63, 100), (10**8 + 1, 10**8 + 9), (2 * 10**9, 2 * 10**9 + 8)],
)
def test_huge_lengths_cost_no_memory(tmp_path, length, size):
    """The larger files are holes: they take no place on the disk."""
    names = ("model.safetensors", "index.json", "x.manifest.json")
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(size)
    done = python("-c", FRUGAL, tmp_path, *names, timeout=20)
    assert (done.stdout, done.stderr) == ("refused\n" * 3, "")
