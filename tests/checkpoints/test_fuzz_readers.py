"""Damaged files: refused with a UserError that names them, or read as they were. Nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from xft.artifacts.artifact import create_artifact, open_artifact
from xft.artifacts.manifest import (
    FORMAT,
    Manifest,
    json_sha256,
    manifest_path,
    read_manifest,
)
from xft.checkpoints.header import read_tensors
from xft.checkpoints.reader import INDEX_FILE, Checkpoint, read_json
from xft.common.errors import UserError

SHARDS = {"one": ["a", "b"], "two": ["c"]}
PARTS = ["config.json", INDEX_FILE, "one", "two", "manifest"]
quick = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def shard(name: str) -> str:
    return f"{name}.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """An artifact of two shards. Read only."""
    out, generator = tmp_path_factory.mktemp("original") / "moe", torch.Generator().manual_seed(0)
    with create_artifact(out, "moe", {"seed": 0}, {"base": "b" * 64}) as draft:
        for file, names in SHARDS.items():
            values = {name: torch.randn(2, 3, generator=generator) for name in names}
            save_file(values, draft.path / shard(file), metadata={"format": "pt"})
        weight_map = {name: shard(file) for file, names in SHARDS.items() for name in names}
        (draft.path / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
        (draft.path / "config.json").write_text(json.dumps({"seed": 0}))
    return out


@pytest.fixture
def fresh(original, tmp_path):
    """Callable: a copy of the artifact in the place of the last copy."""

    def copy() -> Path:
        artifact = tmp_path / "moe"
        shutil.rmtree(artifact, ignore_errors=True)
        shutil.copytree(original, artifact, copy_function=shutil.copyfile)
        shutil.copyfile(manifest_path(original), manifest_path(artifact))
        return artifact

    return copy


def part(artifact: Path, name: str) -> Path:
    if name == "manifest":
        return manifest_path(artifact)
    return artifact / (shard(name) if name in SHARDS else name)


def everything(artifact: Path, full: bool) -> tuple:
    """All that a step reads of an artifact."""
    opened = open_artifact(artifact, "moe", full=full)
    checkpoint = opened.checkpoint
    tensors = {name: checkpoint.get(name).tolist() for name in checkpoint.names}
    return opened.manifest, checkpoint.config, tensors


def assert_refused_or_same(artifact: Path, original: Path, full: bool) -> None:
    try:
        found = everything(artifact, full)
    except UserError as error:
        assert str(artifact) in str(error)
    else:
        assert found == everything(original, full)


# Damaged artifacts


@quick
@given(data=st.data(), name=st.sampled_from(PARTS), full=st.booleans())
def test_a_flipped_bit_is_noticed(data, fresh, original, name, full):
    artifact = fresh()
    file = part(artifact, name)
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    assert_refused_or_same(artifact, original, full)


@pytest.mark.parametrize("name", PARTS[:-1])
def test_a_truncated_file_is_refused(fresh, name):
    """Also without a manifest, as in models of others."""
    artifact = fresh()
    file = part(artifact, name)
    content = file.read_bytes().rstrip(b"\n")
    manifest_path(artifact).unlink()
    for length in range(0, len(content), 7):
        file.write_bytes(content[:length])
        with pytest.raises(UserError) as caught:
            everything(artifact, full=False)
        assert str(file) in str(caught.value)


# Files that were written to deceive

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
numbers = st.integers(0, 12) | st.integers(-(2**70), 2**70)


@quick
@given(
    weight_map=json_values
    | st.dictionaries(
        st.sampled_from("abcd"),
        st.sampled_from([shard("one"), shard("two"), "../moe", "\0", "\ud800", "."]) | json_values,
    ),
)
def test_an_index_is_right_or_refused(fresh, weight_map):
    artifact = fresh()
    manifest_path(artifact).unlink()
    (artifact / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    try:
        checkpoint = Checkpoint(artifact)
    except UserError as error:
        assert str(artifact) in str(error)
    else:
        whole = [
            name
            for file, held in SHARDS.items()
            if shard(file) in checkpoint.files
            for name in held
        ]
        assert checkpoint.names == whole


file_names = st.sampled_from(["config.json", "../x", "/etc/passwd", "x\0", "\ud800", "a/b"])
file_entries = json_values | st.fixed_dictionaries(
    {"size": numbers | json_values, "sha256": st.just("a" * 64) | json_values}
)


@quick
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "kind": st.just("moe") | json_values,
            "format": st.just(FORMAT) | json_values,
            "files": st.dictionaries(file_names, file_entries) | json_values,
            "inputs": st.dictionaries(st.text(max_size=3), st.just("a" * 64) | json_values),
            "parameters": json_values,
            "more": json_values,
        },
    ),
)
def test_a_manifest_is_right_or_refused(fresh, original, changes):
    """Manifests whose id fits: nothing but the checks of their form and of the files is left."""
    artifact = fresh()
    content = json.loads(manifest_path(artifact).read_text()) | changes
    fields = {name: content[name] for name in Manifest.__dataclass_fields__}
    content["id"] = json_sha256(fields)
    manifest_path(artifact).write_text(json.dumps(content))
    try:
        manifest = open_artifact(artifact, "moe").manifest
    except UserError as error:
        assert str(artifact) in str(error)
    else:
        assert manifest.files == read_manifest(manifest_path(original)).files


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
def test_json_traps_are_refused_in_every_file(fresh, trap):
    artifact = fresh()
    for name in ("config.json", INDEX_FILE, "manifest", "one"):
        file = part(artifact, name)
        before, content = file.read_bytes(), JSON_TRAPS[trap]
        if name == "one":
            content = len(content).to_bytes(8, "little") + content
        file.write_bytes(content)
        read = {"manifest": read_manifest, "one": read_tensors}.get(name, read_json)
        with pytest.raises(UserError) as caught:
            read(file)
        assert str(file) in str(caught.value)
        file.write_bytes(before)


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
    [
        (90_000_000, 100),
        (2**63, 100),
        (10**8 + 1, 10**8 + 9),
        (2 * 10**9, 2 * 10**9 + 8),
    ],
)
def test_huge_lengths_cost_no_memory(tmp_path, repository, length, size):
    """The larger files are holes: they take no place on the disk."""
    names = ("model.safetensors", "index.json", "x.manifest.json")
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.write(length.to_bytes(8, "little"))
            file.truncate(size)
    done = subprocess.run(
        [sys.executable, "-c", FRUGAL, str(tmp_path), *names],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.stdout, done.stderr) == ("refused\n" * 3, "")
