"""Locks: between two nodes that share a folder, and of files that were removed."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
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


@pytest.fixture(params=["one node", "two nodes"])
def views(request, tmp_path) -> list[Path]:
    """Two paths of one folder, as two processes see it."""
    return [tmp_path] * 2 if request.param == "one node" else request.getfixturevalue("nodes")[:2]


def when_free(work: Callable, *about) -> None:
    """Do work as soon as it gets its lock: FUSE frees one a while after its file was closed."""
    while True:
        with suppress(UserError, BlockingIOError):
            work(*about)
            return


def test_a_removal_lets_no_two_processes_make_one_entry(views, monkeypatch):
    """It falls between the moment that one opens the file of the lock and the moment it locks it.
    The attributes that its node remembers of the file are those before the removal.
    """
    digest, flock = "0" * 16, fcntl.flock
    first, second = (store.Store(view / "store").entry("moe", digest) for view in views)
    log = store.log_of(first)
    log.parent.mkdir(parents=True)
    log.write_text("of the entry")
    with store.claimed(first):
        first.mkdir(parents=True)

    def remove_first(*about) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        when_free(store.remove, second)
        when_free(flock, *about)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with store.claimed(first):
        assert not second.exists()
        with pytest.raises(UserError, match=rf"is making {second}\. "), store.claimed(second):
            pass
    assert not log.exists()


def test_what_was_fetched_of_an_entry_is_not_removed_while_it_is_fetched(tmp_path):
    """Its lock is that of the entry."""
    entry = store.Store(tmp_path).entry("moe", "0" * 16)
    part = store.fetched(entry)
    part.mkdir(parents=True)
    with store.claimed(entry), pytest.raises(UserError, match=rf"is making {entry}\. "):
        store.remove(part)
    store.remove(part)
    assert not any(part.parent.iterdir()) and {*part.parents[1].iterdir()} == {part.parent}
