"""Fetches files of a pinned commit from the hub, checks their hashes, and explains its errors.

Files in the hub's own cache are not fetched again. If all are there, the network is not used.
huggingface_hub finds the token (HF_TOKEN, or its login). No message shows the token.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xft.artifacts.manifest import hash_file
from xft.common.errors import UserError
from xft.common.progress import Bar, progress

SHA256_DIGITS, GIT_DIGITS = 64, 40


def fetch_files(
    repository: str, revision: str, patterns: Iterable[str], kind: str = "model"
) -> Path:
    """Fetch the files of a commit that fit a pattern. Returns its folder in the hub's cache.

    kind: model or dataset. Raises UserError if it fails, or if a file has another hash than stated.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    patterns = list(patterns)
    with hub_errors(f"{repository} at {revision} could not be fetched", repository):
        folder = Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=patterns,
                tqdm_class=_FetchBar,
            )
        )
    present = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    chosen = sorted(filter_repo_objects(present, allow_patterns=patterns))
    _check_hashes(f"{repository} at {revision}", [folder / name for name in chosen])
    return folder


def fetch_file(repository: str, revision: str, name: str, kind: str = "model") -> Path:
    """A file of a commit, in the hub's cache. Raises UserError as `fetch_files` does."""
    from huggingface_hub import hf_hub_download

    what = f"{repository}/{name} at {revision}"
    with hub_errors(f"{what} could not be fetched", repository):
        path = Path(
            hf_hub_download(
                repository, name, repo_type=kind, revision=revision, tqdm_class=_FetchBar
            )
        )
    _check_hashes(what, [path])
    return path


def find_cached(repository: str, revision: str, patterns: Iterable[str]) -> Path | None:
    """The folder of a model's commit in the hub's cache, if all files that fit a pattern are there.

    None if one is missing, or if the names of the files are not known. Nothing is fetched.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    patterns = list(patterns)
    names = known_names(repository, revision) or [name for name in patterns if "*" not in name]
    chosen = list(filter_repo_objects(names, allow_patterns=patterns))
    found = [try_to_load_from_cache(repository, name, revision=revision) for name in chosen]
    if not found or not all(isinstance(file, str) for file in found):
        return None
    return Path(found[0].removesuffix(chosen[0]))


def known_names(repository: str, revision: str) -> list[str]:
    """The names of all files of a model's commit, if the cache knows them; else none."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return sorted(file.path for file in get_cached_repo_tree(repository, revision=revision))
    except CachedRepoTreeNotFoundError:
        return []


def git_hash(path: Path) -> str:
    """The SHA-1 that git and the hub give a small file, over its length and content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_hashes(what: str, paths: list[Path]) -> None:
    """Compare files in the cache with the hub's hashes, and remove files that differ.

    The name of a file's content in the cache is the hub's hash: SHA-256 for large files.
    huggingface_hub does not compare these. Raises UserError if a file differs.
    """
    wrong = []
    total = sum(path.stat().st_size for path in paths)
    with progress(desc="compare with the hub", total=total, unit="B", unit_scale=True) as bar:
        for path in paths:
            stated = path.readlink().name if path.is_symlink() else ""
            if (actual := _hash_like(stated, path, bar.update)) != stated:
                wrong.append(f"{path.name} has the hash {actual}, but the hub states {stated}")
                _remove_with_target(path)
    if wrong:
        raise UserError(
            f"{what} was damaged on the way: {'; '.join(wrong)}. The damaged files were removed "
            "from the hub's cache. Run again to fetch them again"
        )


def _hash_like(stated: str, path: Path, report: Callable[[int], object]) -> str:
    """The hash of a file, of the same kind as `stated`; `stated` itself if it is not a hash."""
    if re.fullmatch(f"[0-9a-f]{{{SHA256_DIGITS}}}", stated):
        return hash_file(path, report)
    return git_hash(path) if re.fullmatch(f"[0-9a-f]{{{GIT_DIGITS}}}", stated) else stated


def _remove_with_target(path: Path) -> None:
    """Remove a link, and the file that it points to."""
    if path.is_symlink():
        _remove_with_target(path.parent / path.readlink())
    path.unlink(missing_ok=True)


@contextmanager
def hub_errors(failure: str, repository: str) -> Iterator[None]:
    """Turn the hub's errors into a UserError: `failure`, and the reason."""
    from httpx2 import HTTPError  # of huggingface_hub's HTTP client
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    # Failed transfers of large files raise RuntimeError.
    except (HTTPError, EntryNotFoundError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{failure}: {_reason(error, repository)}") from None


def _reason(error: Exception, repository: str) -> str:
    """Why the hub request failed, and what to do."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated. Accept its terms at {constants.ENDPOINT}/{repository}, "
            f"and set HF_TOKEN to a token of the same account ({_token_state()})"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            "the hub has the repository, but no such revision. Use the hash of one of its commits"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub at {constants.ENDPOINT} shows no such repository. If it is private, set "
            f"HF_TOKEN to a token that may use it ({_token_state()})"
        )
    if status in (401, 403):
        return f"the hub refuses the token, or the token lacks the rights ({_token_state()})"
    if isinstance(error, UnicodeEncodeError):
        return f"the token holds characters other than plain letters and digits ({_token_state()})"
    if isinstance(error, errors.LocalEntryNotFoundError) and constants.is_offline_mode():
        return (
            f"it is not complete in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE "
            "forbids this step to use the network"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}. Complete files are kept: run again to continue"


def _token_state() -> str:
    from huggingface_hub import get_token

    if os.environ.get("HF_TOKEN"):
        return "HF_TOKEN is set now"
    return "now the token of the hub's login is used" if get_token() else "no token is set now"


class _FetchBar(Bar):
    """Shows one bar for all bytes, with its own words. huggingface_hub would show several bars."""

    def __init__(self, *args, **options):
        of_bytes = options.get("unit") == "B" and "bar_format" not in options
        aggregate = str(options.get("desc", "")).startswith("Reconstructing")
        super().__init__(
            *args,
            desc="fetch",
            total=options.get("total"),
            initial=options.get("initial", 0),
            unit="B",
            unit_scale=True,
            disable=not (of_bytes or aggregate),
        )

    def set_description(self, desc=None, refresh=True) -> None:
        pass
