"""Fetches files of a pinned commit from the hub into its own cache, by huggingface_hub.

Files in the cache are not fetched again. If all are there, the network is not used.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xft.common.errors import UserError

OFFLINE = "Without a network see docs/hub.md, section Offline machines"
ADVICE = (
    "Whole files are kept: run again to go on. A private or gated repository needs HF_TOKEN. "
    f"{OFFLINE}"
)


def fetch_files(
    repository: str, revision: str, patterns: Iterable[str], kind: str = "model"
) -> Path:
    """Fetch the files of a commit that fit a pattern. Returns its folder in the hub's cache.

    Raises UserError if it fails.

    kind: model or dataset.
    """
    from huggingface_hub import snapshot_download

    options = {"repo_type": kind, "revision": revision, "allow_patterns": list(patterns)}
    with hub_errors(f"{repository} at {revision} could not be fetched", ADVICE):
        return Path(snapshot_download(repository, **options))


def fetch_file(repository: str, revision: str, name: str, kind: str = "model") -> Path:
    """A file of a commit, in the hub's cache. Raises UserError as `fetch_files` does."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"{repository}/{name} at {revision} could not be fetched", ADVICE):
        return Path(hf_hub_download(repository, name, repo_type=kind, revision=revision))


def cached_rows(repository: str, revision: str, name: str) -> Path | None:
    """A file of a data set's commit, if the hub's cache holds it."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repository, name, repo_type="dataset", revision=revision)
    return Path(file) if isinstance(file, str) else None


@contextmanager
def hub_errors(failure: str, advice: str) -> Iterator[None]:
    """Turn huggingface_hub's errors into a UserError: `failure`, its own words, and `advice`."""
    from httpx2 import HTTPError  # of huggingface_hub's HTTP client
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    # Failed transfers of large files raise RuntimeError.
    except (HTTPError, EntryNotFoundError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{failure}: {reason}. {advice}") from None
