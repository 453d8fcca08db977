"""Locks: between two nodes that share a folder, and of files that were removed."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from working_folder import wants, write_inputs

from xft.artifacts.artifact import create_artifact, remove_abandoned
from xft.artifacts.claims import claimed
from xft.common.errors import UserError
from xft.store import store
from xft.tools import gc, status


@pytest.fixture
def nodes(tmp_path) -> Iterator[list[Path]]:
    """Three mounts of one folder, the last for reading alone.

    As with NFS, locks of files hold in all of them, and locks of folders in one.
    """
    shared, *mounts = (tmp_path / name for name in ("shared", "first", "second", "reader"))
    if not shutil.which("bindfs"):
        pytest.skip("bindfs is not installed")
    words = ["bindfs", "--multithreaded", "--enable-lock-forwarding", shared]
    shared.mkdir()
    try:
        for mount, more in zip(mounts, ([], [], ["-r"]), strict=True):
            mount.mkdir()
            done = subprocess.run([*words, mount, *more], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"FUSE cannot be used here: {done.stderr}")
        yield mounts
    finally:
        for mount in filter(os.path.ismount, mounts):
            subprocess.run(["fusermount", "-uz", mount], check=True)


def test_what_works_on_a_node_is_seen_from_the_other(nodes, tiny_llama, monkeypatch, capsys):
    """A run, its job, and the workspace of a step."""
    first, second, reader = nodes
    monkeypatch.chdir(first)
    write_inputs(tiny_llama)
    run, this = wants(), f"by process {os.getpid()} of "
    run.begin()
    entry = run.experiment.by_name["moe_sft"].entry
    store.partial(entry).mkdir(parents=True)
    with store.claimed(entry), create_artifact(Path("mine"), "moe") as draft:
        monkeypatch.chdir(second)
        with pytest.raises(UserError, match=f"store is in use {this}"):
            wants().begin()
        run.close()
        for work in (lambda: gc.main(["store", "--yes"]), wants().begin):
            with pytest.raises(UserError, match=f"moe_sft is still being made {this}"):
                work()
        with pytest.raises(UserError, match=rf"is making {entry}\. Wait"), store.claimed(entry):
            pass
        remove_abandoned(Path("mine"))
        assert draft.path.exists()
        monkeypatch.chdir(reader)
        status.main(["results"])
        assert "\nrunning: 1\n  moe_sft  " in capsys.readouterr().out
        monkeypatch.chdir(first)
    assert store.worker(entry) is None


def test_a_lock_of_a_file_that_was_removed_is_no_lock(tmp_path, monkeypatch):
    """By the process that had it, after this one opened the file."""
    file, flock = tmp_path / "owner", fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *about: file.unlink(True) or flock(*about))
    with pytest.raises(UserError, match=r"^another process trains\. "), claimed(file, "trains"):
        pass
