"""Fetches named problem sets from this machine, or else from the network."""

import gzip
import hashlib
import io
import logging
import sys
import zlib
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.recipe import make_recipe
from xft.common.errors import UserError
from xft.common.progress import progress
from xft.hub.named_sets import NamedSet, unpacked

RETRIES = 3
BACKOFF = 2  # seconds; the waits are 0, 4 and 8 if the server asks for no other
BUSY = {429, *range(500, 600)}  # HTTP statuses that may pass
TIMEOUT = 30  # seconds without a connection or another byte; the longest wait for a busy server
MAX_BYTES = 2**26  # packed or unpacked; what is longer is something else
CHUNK_BYTES = 2**16


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
    """The unpacked release. Raises UserError where it cannot be had, or is not the pinned one."""
    from requests import RequestException
    from urllib3.exceptions import MaxRetryError

    try:
        content = _unpack(_get(chosen.url))
    except (RequestException, MaxRetryError) as error:
        fault = _reason(error)
    else:
        if hashlib.sha256(content).hexdigest() == chosen.sha256:
            return content
        fault = "the fetched file is not that release (its SHA-256 differs)"
    raise UserError(
        f"{chosen} could not be fetched from {chosen.url}: {fault}. Fetch the file on another "
        f"machine and copy it here. Then set {chosen.variable} to its path, or unpack it to "
        f"{chosen.cached}. If only the rows are cleaned of it, leave it out with "
        "data.decontaminate_against"
    )


def _unpack(packed: bytes) -> bytes:
    """The content, up to a limit; nothing if this is not a whole gzip file."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MAX_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""


def _get(url: str) -> bytes:
    """The bytes at a URL, through the environment's proxies.

    urllib3 tries again if there is no answer, or if the server is busy. It does not see that an
    answer breaks off, so this function counts that. Raises requests' exceptions, and urllib3's
    MaxRetryError.
    """
    import requests

    # The file is already packed: a server must not pack or unpack it.
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": TIMEOUT, "stream": True}
    retry = _retry(url)
    while True:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
            with session.get(url, **options) as response:
                response.raise_for_status()
                try:
                    return _read(response)
                except requests.RequestException as error:
                    used = response.raw.retries or retry
                    retry = used.increment(url=url, error=error)
        retry.sleep()


def _retry(url: str):
    """urllib3's retries. Each is announced in one line."""
    from urllib3.util import Retry

    class AnnouncedRetry(Retry):
        def sleep(self, response=None) -> None:
            _, _, error, status, _ = self.history[-1]
            fault = _reason(error) if error else f"the server says {status}"
            _say(f"{url}: {fault}. Trying again")
            super().sleep(response)

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its own lines are long
    return AnnouncedRetry(
        RETRIES,
        backoff_factor=BACKOFF,
        retry_after_max=TIMEOUT,
        status_forcelist=BUSY,
        raise_on_status=False,
    )


def _read(response) -> bytes:
    """The body of an answer, up to a limit."""
    content = bytearray()
    total = int(response.headers.get("Content-Length", 0)) or None
    with progress(desc="fetch", total=total, unit="B", unit_scale=True) as bar:
        for chunk in response.iter_content(CHUNK_BYTES):
            content += chunk
            bar.update(len(chunk))
            if len(content) > MAX_BYTES:
                break
    return bytes(content)


def _reason(error) -> str:
    """The reason for an error, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server says {error.response.status_code} {error.response.reason}"
    where = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    while inner := error.__context__ or _inner(error):  # it has the system's own words
        error = inner
    if isinstance(error, TimeoutError):
        return f"{where}no answer within {TIMEOUT} s"
    return where + (getattr(error, "strerror", None) or str(error))


def _inner(error) -> Exception | None:
    """The error that another one holds without having been raised from it."""
    last = error.args[-1] if error.args else None
    return last if isinstance(last, Exception) else None


def _say(line: str) -> None:
    print(line, file=sys.stderr)
