"""Buckets for tests, and stores with small entries to send there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save_file

from xft.artifacts.artifact import create_artifact
from xft.store.remote import Bucket
from xft.store.store import MARK, Recipe, Store, partial, publish

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
KINDS = ["file", "memory", pytest.param("s3", marks=pytest.mark.slow)]


@contextmanager
def s3_bucket(monkeypatch) -> Iterator[str]:
    """A new bucket on a server of this process, which the environment names. Its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(f"s3://{uuid4().hex}/folder")
    bucket.fs.mkdir(bucket.url.split("/")[2])
    try:
        yield bucket.url
    finally:
        server.stop()


@dataclass(eq=False)
class Part:
    """What stores need to know of an artifact."""

    entry: Path
    inputs: tuple = ()
    is_temporary: bool = False

    @property
    def step(self) -> str:
        return self.entry.parent.name

    @property
    def digest(self) -> str:
        return self.entry.name

    @property
    def name(self) -> str:
        return f"{self.step}/{self.digest}"

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
    publish(entry, recipe)
    (Path(store) / MARK).touch()
    return Part(entry)
