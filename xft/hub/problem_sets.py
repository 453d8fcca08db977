"""Fetches named problem sets from this machine, or else from the network."""

import gzip
import hashlib
import io
import zlib
from itertools import islice
from pathlib import Path

from xft.artifacts.manifest import write_manifest
from xft.common.file_access import read_bytes, write_whole
from xft.common.progress import say
from xft.hub.named_sets import NamedSet, Release, Translation, unpacked
from xft.hub.repository import fetch_file, hub_errors

TIMEOUT = 30  # seconds without a connection or another byte
MAX_BYTES = 2**26  # packed or unpacked; what is longer is something else
CHUNK_BYTES = 2**16


def fetch(chosen: NamedSet, out: Path) -> None:
    """Write the file of a named set, unpacked, whole or not at all, and its manifest.

    A release is the variable's file, else EvalPlus's cache, else EvalPlus's release. The latter two
    must have the pinned content. A translation comes from the hub or from its cache. Prints the
    source. Raises UserError.
    """
    content, known = _of_release(chosen) if isinstance(chosen, Release) else _of_hub(chosen)
    write_whole(out, content)
    write_manifest(out, "problems", {"dataset": chosen.name, "release": known})


def _of_release(chosen: Release) -> tuple[bytes, str | None]:
    """The problems, and the release; None if they are others."""
    file = chosen.find()
    if file is None and chosen.cached.is_file():
        say(f"{chosen.cached} is not {chosen}, so it is not used")
    content = unpacked(file) if file else _download(chosen)
    if hashlib.sha256(content).hexdigest() == chosen.sha256:
        say(f"{chosen} from {file or chosen.url}")
        return content, str(chosen)
    say(f"{file}, set by {chosen.variable}, is not {chosen}: scores are for other problems")
    return content, None


def _of_hub(chosen: Translation) -> tuple[bytes, str]:
    file = fetch_file(chosen.hub_id, chosen.revision, chosen.place, "dataset")
    say(f"{chosen} from {chosen.hub_id}")
    return read_bytes(file, MAX_BYTES), str(chosen)


def _download(chosen: Release) -> bytes:
    """The unpacked release. Raises UserError where it cannot be had, or is not the pinned one."""
    with hub_errors(f"{chosen} could not be fetched from {chosen.url}", chosen.advice):
        content = _get(chosen.url)
        if hashlib.sha256(content).hexdigest() != chosen.sha256:
            raise ValueError("the fetched file is not that release (its SHA-256 differs)")
    return content


def _get(url: str) -> bytes:
    """The unpacked file at a URL, up to a limit; nothing if there is no whole gzip file.

    A busy server is asked again. Raises httpx2.HTTPError.
    """
    from huggingface_hub.utils import http_stream_backoff

    # The file is already packed: a server must not pack or unpack it.
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": TIMEOUT}
    with http_stream_backoff("GET", url, retry_on_exceptions=(), **options) as response:
        response.raise_for_status()
        packed = b"".join(islice(response.iter_raw(CHUNK_BYTES), MAX_BYTES // CHUNK_BYTES))
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MAX_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""
