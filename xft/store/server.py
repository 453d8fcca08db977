"""A folder on a server, which fsspec reads and writes, and what a server may do wrong.

It may be away, refuse, or fall silent. The first such fault ends all use of it in this process.
"""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock, Thread
from uuid import uuid4

from fsspec import get_filesystem_class
from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from xft.common.errors import UserError

SILENT = 10  # seconds that a request lasts until the server is asked whether it is still there
PATIENCE = 20  # seconds that its answer to this may last
SILENCE = "the server does not answer"
NOTHING = "nothing"  # a folder that no server has: to list it is a small request
DRAFT = ".tmp"
# A put into these appears while it is written, so it gets another name first.
FILE_SYSTEMS = ("file", "sftp")
CHUNK, CHUNKS = 25 * 2**20, 4  # bytes of a file that is uploaded, and how often, in memory
AT_ONCE = 8  # files that are transferred
LIMITS = {"retries": {"max_attempts": 2}, "max_pool_connections": CHUNKS + AT_ONCE}
FRESH = {"use_listings_cache": False}
# Of file systems, by scheme.
SETTINGS = {
    "s3": {"config_kwargs": LIMITS | {"connect_timeout": 10, "read_timeout": 60}, **FRESH},
    "gs": FRESH,
    "az": {"connection_timeout": 10, "read_timeout": 60, "max_concurrency": CHUNKS, **FRESH},
    "file": {"auto_mkdir": True},
    "sftp": {"known_hosts": ()},  # those of the user's files: otherwise any host is trusted
}
# gcsfs otherwise asks for the kind of the bucket, which not all servers and credentials allow.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints stack traces of what is told here
# Options of transfers: what is in memory.
PUT = {"s3": {"chunksize": CHUNK, "max_concurrency": CHUNKS}, "gs": {"chunksize": CHUNK}}
GET = {"s3": {"max_concurrency": 1}}


class Away(UserError):
    """A server is away, too slow, or refuses."""


class Server:
    """A folder on a server.

    url: of the folder.
    away: why the server is not used any more; None while it is.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.scheme = url.partition("://")[0]
        self.away: str | None = None
        self._asking = Lock()  # whether the server is still there
        self._heard = 0.0  # when it last said so

    @cached_property
    def fs(self):
        """The file system. It may connect to the server."""
        if self.scheme == "hf":
            from xft.store.hub_files import HubFiles  # imports huggingface_hub

            return HubFiles(skip_instance_cache=True)
        return url_to_fs(self.url, skip_instance_cache=True, **SETTINGS.get(self.scheme, {}))[0]

    @cached_property
    def _root(self) -> str:
        return get_filesystem_class(self.scheme)._strip_protocol(self.url).rstrip("/")

    def named(self, *parts: str) -> str:
        """The name of a file in the folder, as the file system wants it."""
        return "/".join([self._root, *parts])

    def ask(self, work: Callable, name: str | None = None):
        """The result of work with the file system.

        name: of what is read, in messages. Raises UserError if it is missing. Raises Away if the
        server cannot be used, or does not answer, and from then on.
        """
        if self.away:
            raise Away(self.away)
        try:
            answer = self._begin(work)
            while not wait([answer], SILENT).done:
                self._check_answers()
            return answer.result()
        except UserError:
            raise
        except Exception as error:  # of the scheme's library
            # The rest of the line may be that of a signed URL.
            said = str(error).strip("\n .").partition("\n")[0].partition("?")[0][:200]
            if isinstance(error, FileNotFoundError):
                if name:
                    raise UserError(f"{name} is missing") from None
                said = f"not found, or not with these credentials: {said}"
            raise self._failed(said or type(error).__name__) from None

    def _begin(self, work: Callable) -> Future:
        """Begin work in a thread that the end of the process does not wait for."""
        answer = Future()

        def run() -> None:
            try:
                answer.set_result(work(self.fs))
            except Exception as error:
                answer.set_exception(error)
            except BaseException as error:  # such as asyncio's CancelledError: it would end a pool
                answer.set_exception(OSError(repr(error)))

        Thread(target=run, daemon=True).start()
        return answer

    def _check_answers(self) -> None:
        """Raise Away if the server does not answer a small request, on a connection of its own."""
        with self._asking:
            if self.away:
                raise Away(self.away)
            if time.monotonic() - self._heard > SILENT:
                answer = Server(self.url)._begin(lambda fs: fs.find(self.named(NOTHING)))
                if not wait([answer], PATIENCE).done:
                    raise self._failed(SILENCE)
                answer.result()
                self._heard = time.monotonic()

    def _failed(self, fault: str) -> Away:
        self.away = self.away or f"{self.url}: {fault}"
        return Away(self.away)

    def check(self) -> None:
        """Raise Away if it cannot be used."""
        self.find(NOTHING)

    def forget_lists(self) -> None:
        """List folders anew: the hub's file system has no setting for this. Raises Away."""
        self.ask(lambda fs: fs.invalidate_cache())

    def find(self, *parts: str) -> dict[str, int]:
        """The sizes in bytes of all files below a folder, by their names in this one.

        Raises Away.
        """
        folder = self.named(*parts)
        if self.scheme in FILE_SYSTEMS:
            files = self.ask(lambda fs: _walk(fs, folder))
        else:
            files = self.ask(lambda fs: fs.find(folder, detail=True))
        return {
            name.removeprefix(self._root).strip("/"): item["size"] for name, item in files.items()
        }

    def size_of(self, name: str) -> int | None:
        """The bytes of a file; None if it is not there. Raises Away."""
        return self.ask(lambda fs: fs.size(name) if fs.exists(name) else None)

    def put(self, content: Path | bytes, name: str, watch: Callback | None = None) -> None:
        """Put a file, or bytes, so that it appears at once. Raises Away."""
        is_drafted = self.scheme in FILE_SYSTEMS
        written = f"{name}.{uuid4().hex}{DRAFT}" if is_drafted else name

        def work(fs) -> None:
            if isinstance(content, bytes):
                fs.pipe_file(written, content)
            else:
                fs.put_file(str(content), written, callback=watch, **PUT.get(self.scheme, {}))
            if is_drafted:
                fs.mv(written, name)

        self.ask(work)

    def get(self, name: str, file: Path, watch: Callback, shown: str) -> None:
        """Fetch a file. Raises Away, or UserError if it is missing. shown: its name in messages."""
        options = {"callback": watch} | GET.get(self.scheme, {})
        self.ask(lambda fs: fs.get_file(name, str(file), **options), shown)

    def now(self) -> float:
        """The time by the clock of the server: that of a file which is written there and removed.

        Raises Away.
        """
        name = f"now.{uuid4().hex}{DRAFT}"
        self.ask(lambda fs: fs.pipe_file(self.named(name), name.encode()))
        written = self.time_of(name)
        self.remove(name)
        return written

    def time_of(self, name: str) -> float:
        """When a file was written, by the clock of the server. Raises Away."""
        return self.ask(lambda fs: fs.modified(self.named(name))).timestamp()

    def remove(self, name: str) -> None:
        """Remove a file. Raises Away."""
        self.ask(lambda fs: fs.rm_file(self.named(name)))


def _walk(fs, folder: str) -> dict[str, dict]:
    """The files below a folder, by name, as `find` of the file system gives them.

    `find` itself passes over folders that cannot be read. This raises.
    """
    files = {}
    with suppress(FileNotFoundError):
        for item in fs.ls(folder, detail=True):
            if item["type"] == "directory":
                files |= _walk(fs, item["name"])
            else:
                files[item["name"]] = item
    return files
