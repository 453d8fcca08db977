"""Buckets for tests, and stores with small entries to send there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save_file

from xft.artifacts.artifact import create_artifact
from xft.store import others
from xft.store.remote import Bucket
from xft.store.store import MARK, Recipe, Store, finish, partial

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
KINDS = ["file", "memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("s3", "sftp"))]


@contextmanager
def s3_bucket(monkeypatch, _: Path | None = None) -> Iterator[str]:
    """A new bucket on a server of this process, which the environment names. Its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(f"s3://{uuid4().hex}/folder")
    bucket.server.fs.mkdir(bucket.url.split("/")[2])
    try:
        yield bucket.url
    finally:
        server.stop()


@contextmanager
def sftp_bucket(monkeypatch, home: Path) -> Iterator[str]:
    """A folder that is not there yet, on a server that the files of ssh in a home name. Its URL."""
    from processes import free_port  # imports torch

    program, folder, port = shutil.which("sshd", path="/usr/sbin"), home / ".ssh", str(free_port())
    if not program or (os.getuid() == 0 and not Path("/run/sshd").is_dir()):
        pytest.skip("needs /usr/sbin/sshd, which root can start only if /run/sshd is there")
    folder.mkdir()
    for name in ("id_ed25519", "host"):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / name], check=True)
    keys = f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/id_ed25519.pub\nStrictModes no\n"
    (folder / "sshd").write_text(f"{keys}PidFile none\nSubsystem sftp internal-sftp\n")
    monkeypatch.setenv("HOME", str(home))
    asks = ["ssh-keyscan", "-p", port, "127.0.0.1"]
    with subprocess.Popen([program, "-D", "-p", port, "-f", folder / "sshd"]) as server:
        try:
            while not (known := subprocess.run(asks, capture_output=True).stdout):
                assert server.poll() is None
            (folder / "known_hosts").write_bytes(known)
            yield f"sftp://127.0.0.1:{port}{home}/bucket"
        finally:
            server.terminate()


class Part:
    """What stores need to know of an artifact."""

    def __init__(self, entry: Path):
        self.entry, self.inputs, self.is_temporary = entry, (), False
        self.step, self.digest = entry.parts[-2:]
        self.name = f"{self.step}/{self.digest}"

    def at(self, store: str) -> "Part":
        """The same in another store."""
        return Part(Path(store, self.step, self.digest))


def make(step: str, number: int, size: int = 1000, store: str = "theirs") -> Part:
    """A part with a whole entry."""
    recipe = Recipe(step, 1, {"number": number}, {})
    entry = Store(Path(store)).entry(step, recipe.digest)
    with create_artifact(partial(entry) / "artifact", step) as draft:
        (draft.path / "weights.bin").write_bytes(os.urandom(size))
        tensors = {"a": np.random.default_rng(number).random(200)}
        save_file(tensors, draft.path / "model.safetensors")
        (draft.path / "inner").mkdir()
        (draft.path / "inner" / "config.json").write_text("{}")
    (partial(entry) / "costs.json").write_text(f"{number}, by {store}")
    finish(entry, recipe)
    (Path(store) / MARK).touch()
    return Part(entry)


def fetch(url: str, *parts: Part, store: str = "ours") -> list[Part]:
    """The parts in a store of their own after an attempt to take them from a bucket."""
    others.bucket.cache_clear()
    ours = [part.at(store) for part in parts]
    offer = others.Offer([url], ours)
    offer.fetch([part for part in ours if part in offer])
    return ours
