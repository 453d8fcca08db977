"""Fetches named problem sets from this machine, or else from the network."""

import gzip
import hashlib
import io
import zlib
from itertools import islice
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.common.progress import say
from xft.hub.named_sets import NamedSet, unpacked
from xft.hub.repository import hub_errors

TIMEOUT = 30  # seconds without a connection or another byte
MAX_BYTES = 2**26  # packed or unpacked; what is longer is something else
CHUNK_BYTES = 2**16


def fetch(chosen: NamedSet, out: Path) -> None:
    """Write the problems of a named set, unpacked, whole or not at all, and their manifest.

    The source is the variable's file, else EvalPlus's cache, else EvalPlus's release. The latter
    two must have the pinned content. Prints the source. Raises UserError.
    """
    file = chosen.find()
    if file is None and chosen.cached.is_file():
        say(f"{chosen.cached} is not {chosen}, so it is not used")
    content = unpacked(file) if file else _download(chosen)
    is_release = hashlib.sha256(content).hexdigest() == chosen.sha256
    if is_release:
        say(f"{chosen} from {file or chosen.url}")
    else:
        say(f"{file}, set by {chosen.variable}, is not {chosen}: scores are for other problems")
    write_whole(out, content)
    parameters = {"dataset": chosen.name, "release": str(chosen) if is_release else None}
    write_manifest(out, "problems", parameters)


def _download(chosen: NamedSet) -> bytes:
    """The unpacked release. Raises UserError where it cannot be had, or is not the pinned one."""
    advice = (
        "Fetch the file on another machine and copy it here. Then set "
        f"{chosen.variable} to its path, or unpack it to {chosen.cached}"
    )
    with hub_errors(f"{chosen} could not be fetched from {chosen.url}", advice):
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
