"""Compares a store in a bucket with the plain `put` and `get` of s3fs, over HTTP on this machine.

    python -m benchmarks.buckets [--gigabytes N] [--files N] [--entries N] [--repeats N]

The server is moto's, in a process of its own, with one thread for all that it computes. Each
transfer has a process, and the ways take turns. A push also compares all bytes with their hashes
before, a fetch after, and both write to the disk what they end with. It prints the seconds, the
speed relative to the plain way, and the peak memory. Then it asks which of many entries are there.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from benchmarks.peak import observe
from xft.artifacts.artifact import ENTRY_FILE, create_artifact
from xft.artifacts.manifest import Manifest
from xft.store import others, store

BLOCK = 2**26


@contextmanager
def server() -> Iterator[None]:
    """A server with an empty bucket, which the environment names."""
    import s3fs

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("bucket")
        yield
    finally:
        process.kill()


def write_entry(root: Path, gigabytes: float, files: int) -> Path:
    """An entry whose artifact has files of random bytes."""
    recipe = store.Recipe("moe_sft", 1, {}, {})
    entry = store.Store(root).entry("moe_sft", recipe.digest)
    block = os.urandom(BLOCK)
    with create_artifact(store.partial(entry) / "artifact", "moe_sft") as draft:
        for number in range(files):
            with (draft.path / f"{number}.bin").open("wb") as file:
                for part in range(round(gigabytes * 1e9 / files / BLOCK)):
                    file.write(f"{number} {part}".encode() + block)
    store.finish(entry, recipe)
    return entry


def push(url: str, entry: Path) -> Callable:
    import xft.store.remote  # noqa: F401 (imports do not count)

    return lambda: sys.exit(others.publish(url, entry))


def fetch(url: str, entry: Path) -> Callable:
    import xft.store.remote  # noqa: F401

    bucket = others.bucket(url)
    return lambda: bucket.fetch(entry, bucket.files_of(f"moe_sft/{entry.name}"), abs)


def put(url: str, entry: Path) -> Callable:
    import s3fs

    names = sorted(map(str, entry.glob("artifact/*")))
    patient = s3fs.S3FileSystem(config_kwargs={"read_timeout": 600})  # the server is slow
    return lambda: patient.put(names, [f"{url}/plain/{Path(n).name}" for n in names])


def get(url: str, entry: Path) -> Callable:
    import s3fs

    entry.mkdir(parents=True)
    return lambda: s3fs.S3FileSystem().get(f"{url}/plain/", f"{entry}/", recursive=True)


def transfers(folder: Path, gigabytes: float, files: int, repeats: int) -> None:
    entry = write_entry(folder / "theirs", gigabytes, files)
    taken = folder / "ours/moe_sft" / entry.name
    ways = {
        "put": (put, entry),
        "push": (push, entry),
        "get": (get, taken),
        "fetch": (fetch, taken),
    }
    seen = {name: [] for name in ways}
    for number in range(repeats):
        for name, (prepare, place) in ways.items():
            shutil.rmtree(folder / "ours", ignore_errors=True)
            seen[name].append(observe(partial(prepare, f"s3://bucket/{number}", place)))
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in seen.items()}
    for name, plain in (("put", "put"), ("push", "put"), ("get", "get"), ("fetch", "get")):
        peak = max(run.whole for run in seen[name]) / 1e6
        each = ", ".join(f"{run.seconds:.1f}" for run in seen[name])
        speed = seconds[plain] / seconds[name]
        print(f"{name:6}{seconds[name]:7.1f} s ({each}), speed {speed:.2f}, peak {peak:.0f} MB")


def existence(entries: int) -> None:
    """The time to ask for entries of 12 steps. Each has a manifest and 4 other files."""
    nodes = [
        SimpleNamespace(step=f"step{number % 12}", digest=f"{number:016x}")
        for number in range(entries)
    ]
    bucket = others.bucket("s3://bucket/many")
    contents = {}
    for node in nodes:
        name = f"{node.step}/{node.digest}"
        text = Manifest("entry", {}, {"entry": name}).to_json()
        contents[bucket.server.named(name, ENTRY_FILE)] = text.encode()
        contents |= {bucket.server.named("files", f"{node.digest}{n}"): b"x" for n in range(4)}
    bucket.server.fs.pipe(contents)
    start = time.perf_counter()
    found = bucket.held(node.step for node in nodes)
    print(f"{len(found)} of {entries} entries are there: {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--entries", type=int, default=3873)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server():
        if args.entries:
            existence(args.entries)
        if args.gigabytes:
            transfers(Path(folder), args.gigabytes, args.files, args.repeats)


if __name__ == "__main__":
    main()
