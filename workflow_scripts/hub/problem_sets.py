"""Fetches named problem sets from this machine, or else from the network."""

import gzip
import hashlib
import io
import sys
import time
import zlib
from pathlib import Path

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import progress
from workflow_scripts.hub.named_sets import NamedSet, unpacked

WAITS = (2, 8)  # seconds before the second and the third try
TIMEOUT = 30  # seconds without a connection or another byte
MAX_BYTES = 2**26  # packed or unpacked; a longer file is not a release
CHUNK_BYTES = 2**16
TOO_MANY_REQUESTS = 429


def fetch(chosen: NamedSet, out: Path) -> None:
    """Write the problems of a named set, unpacked, whole or not at all, and their manifest.

    The source is the variable's file, else EvalPlus's cache, else EvalPlus's release. The latter
    two must have the pinned content. Prints the source. Raises UserError.
    """
    found = chosen.find()
    if found is None and chosen.cached.is_file():
        _say(f"{chosen.cached} is not {chosen}, so it is not used")
    content = unpacked(found) if found else _download(chosen)
    is_release = hashlib.sha256(content).hexdigest() == chosen.sha256
    if is_release:
        _say(f"{chosen} from {found or chosen.url}")
    else:
        _say(f"{found}, set by {chosen.variable}, is not {chosen}: scores are for other problems")
    try:
        write_whole(out, content)
        parameters = {"dataset": chosen.name, "release": str(chosen) if is_release else None}
        recipe = make_recipe("fetch_problems", {}, {"content": chosen.wanted_sha256})
        write_manifest(out, "problems", parameters, recipe=recipe)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None


def _download(chosen: NamedSet) -> bytes:
    """The unpacked release.

    Raises UserError if it cannot be fetched, or does not have the pinned content.
    """
    import requests

    try:
        content = _unpack(_get(chosen.url))
    except requests.RequestException as error:
        fault = _reason(error)
    else:
        if hashlib.sha256(content).hexdigest() == chosen.sha256:
            return content
        fault = "the fetched file is not that release (its SHA-256 differs)"
    raise UserError(
        f"{chosen} could not be fetched from {chosen.url}: {fault}. Fetch the file on another "
        f"machine and copy it here. Then set {chosen.variable} to its path, or unpack it to "
        f"{chosen.cached}"
    )


def _unpack(packed: bytes) -> bytes:
    """The content, up to a limit; nothing if this is not a whole gzip file."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MAX_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""


def _get(url: str) -> bytes:
    """The bytes at a URL, through the environment's proxies, in up to three tries.

    Raises requests' exceptions.
    """
    import requests

    for wait in WAITS:
        try:
            return _get_once(url)
        except requests.RequestException as error:
            if not _may_pass(error):
                raise
            _say(f"{url}: {_reason(error)}. Trying again in {wait} s")
            time.sleep(wait)
    return _get_once(url)


def _get_once(url: str) -> bytes:
    import requests

    # The file is already packed: a server must not pack or unpack it.
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": TIMEOUT, "stream": True}
    content = bytearray()
    with requests.get(url, **options) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        with progress(desc="fetch", total=total, unit="B", unit_scale=True) as bar:
            for chunk in response.iter_content(CHUNK_BYTES):
                content += chunk
                bar.update(len(chunk))
                if len(content) > MAX_BYTES:
                    break
    return bytes(content)


def _may_pass(error) -> bool:
    """Whether another try may help, because the server was busy or the connection failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return status == TOO_MANY_REQUESTS or status >= 500
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, passing)


def _reason(error) -> str:
    """The reason for an error, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server says {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT} s"
    where = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    while error.__context__:  # the innermost error has the system's own words
        error = error.__context__
    return where + (getattr(error, "strerror", None) or str(error))


def _say(line: str) -> None:
    print(line, file=sys.stderr)
