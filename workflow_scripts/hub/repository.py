"""The hub: files of a pinned commit, compared with its hashes, and its errors in plain words.

What lies in the hub's own cache is not fetched again: with all of it there, nothing is asked of the
network. The token is huggingface_hub's to find (HF_TOKEN, or its login) and appears in no message.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_scripts.artifacts.manifest import hash_file
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import Bar, progress

SHA256_DIGITS, GIT_DIGITS = 64, 40


def fetch_files(
    repository: str, revision: str, patterns: Iterable[str], kind: str = "model"
) -> Path:
    """The folder of a commit in the hub's cache, after fetching its files that fit a pattern.

    kind: model or dataset. Raises UserError, also where a file is not what the hub states.
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
    """The folder of a model's commit in the hub's cache, if all its files that fit are there.

    None where one is not, and where it is not known which there are. Nothing is fetched.
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
    """The names of all files of a model's commit that was fetched from, where they are known."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return sorted(file.path for file in get_cached_repo_tree(repository, revision=revision))
    except CachedRepoTreeNotFoundError:
        return []


def git_hash(path: Path) -> str:
    """The SHA-1 by which git, and so the hub, names a small file: of its length and content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_hashes(what: str, paths: list[Path]) -> None:
    """Compare files in the cache with the hub's hashes, and remove from it those that differ.

    The cache names the content of a file by what the hub states: large ones by their SHA-256, which
    huggingface_hub does not compare. Raises UserError where one differs.
    """
    wrong = []
    total = sum(path.stat().st_size for path in paths)
    with progress(desc="compare with the hub", total=total, unit="B", unit_scale=True) as bar:
        for path in paths:
            stated = path.readlink().name if path.is_symlink() else ""
            if (actual := _hash_like(stated, path, bar.update)) != stated:
                wrong.append(f"{path.name} has hash {actual}, and the hub states {stated}")
                _remove_with_target(path)
    if wrong:
        raise UserError(
            f"{what} did not arrive as it is: {'; '.join(wrong)}. What differs was removed from "
            "the hub's cache: run again to fetch it again"
        )


def _hash_like(stated: str, path: Path, report: Callable[[int], object]) -> str:
    """The hash of a file, of the kind of `stated`; `stated` itself where that is none."""
    if re.fullmatch(f"[0-9a-f]{{{SHA256_DIGITS}}}", stated):
        return hash_file(path, report)
    return git_hash(path) if re.fullmatch(f"[0-9a-f]{{{GIT_DIGITS}}}", stated) else stated


def _remove_with_target(path: Path) -> None:
    """Remove a link, and all that it leads to."""
    if path.is_symlink():
        _remove_with_target(path.parent / path.readlink())
    path.unlink(missing_ok=True)


@contextmanager
def hub_errors(failure: str, repository: str) -> Iterator[None]:
    """Turn the hub's errors into a UserError: `failure`, and why."""
    from httpx2 import HTTPError  # what huggingface_hub speaks with
    from huggingface_hub.errors import EntryNotFoundError

    try:
        yield
    # A RuntimeError is what its transfers of large files end in.
    except (HTTPError, EntryNotFoundError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{failure}: {_reason(error, repository)}") from None


def _reason(error: Exception, repository: str) -> str:
    """Why the hub gave nothing, and what to do."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated. Accept its terms at {constants.ENDPOINT}/{repository}, "
            f"and set HF_TOKEN to a token of the account that did ({_token_state()})"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            "the hub has the repository, but no such revision. Take the hash of one of its commits"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub at {constants.ENDPOINT} shows no such repository. If it is private, set "
            f"HF_TOKEN to a token that may use it ({_token_state()})"
        )
    if status in (401, 403):
        return f"the hub refuses the token, or its rights do not suffice ({_token_state()})"
    if isinstance(error, UnicodeEncodeError):
        return f"the token is not plain letters and digits ({_token_state()})"
    if isinstance(error, errors.LocalEntryNotFoundError) and constants.is_offline_mode():
        return (
            f"it is not whole in the hub's cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE "
            "keeps this step from the network"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}. What has arrived whole is kept: run again to go on"


def _token_state() -> str:
    from huggingface_hub import get_token

    if os.environ.get("HF_TOKEN"):
        return "HF_TOKEN is set now"
    return "now the token of the hub's login is used" if get_token() else "now there is none"


class _FetchBar(Bar):
    """One bar of all bytes: huggingface_hub makes several, and words them itself."""

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
