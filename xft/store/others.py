"""Takes artifacts from the stores of others, which are only read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xft.artifacts.artifact import ENTRY_FILE
from xft.artifacts.manifest import MANIFEST_SUFFIX, find_faults, read_manifest
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.common.progress import say
from xft.store.recipe import Recipe
from xft.store.store import MARK, hashes_beside, is_whole


def take(stores: Sequence[str], parts: Iterable) -> None:
    """Link each missing artifact that one of the stores holds, after a check of all its bytes.

    A damaged one is told and not taken.
    """
    for part in parts:
        for found in find(stores, part):
            if not is_whole(part.entry):
                _link(found, part.entry, part.name)


def check(stores: Sequence[str]) -> None:
    """Raise UserError if one of the folders is no store."""
    for store in stores:
        if not Path(store, MARK).is_file():
            raise UserError(f"config: stores: {store} is no store: it has no {MARK}")


def find(stores: Sequence[str], part) -> list[Path]:
    """The entries of an artifact in these stores."""
    entries = [Path(store, part.rule, part.digest) for store in stores]
    return [entry for entry in entries if is_whole(entry)]


def _link(found: Path, entry: Path, name: str) -> None:
    try:
        manifests = sorted(found.glob(f"*{MANIFEST_SUFFIX}"))
        faults = [] if manifests else [f"{found} has no manifest"]
        stated = read_json(found / ENTRY_FILE)
        if Recipe(**stated["recipe"]).digest != found.name:
            faults.append(f"{found} holds another recipe than its name says")
        for manifest in manifests:
            artifact = manifest.with_name(manifest.name.removesuffix(MANIFEST_SUFFIX))
            faults += find_faults(artifact, read_manifest(manifest), full=True)
        if "files" in stated:  # entries of earlier versions state none
            altered = dict(stated["files"].items() ^ hashes_beside(found).items())
            faults += [f"{found / name} was altered" for name in sorted(altered)]
    except (UserError, OSError, AttributeError, KeyError, TypeError) as error:
        faults = [str(error)]
    if faults:
        say(f"{name} is not taken from {found}: {'; '.join(faults)}")
        return
    entry.parent.mkdir(parents=True, exist_ok=True)
    if entry.is_symlink():  # to what is gone
        entry.unlink()
    entry.symlink_to(found.absolute())
    say(f"{name} is taken from {found}")
