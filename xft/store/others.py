"""Takes artifacts from the stores of others, which are only read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xft.common.errors import UserError
from xft.common.progress import say
from xft.store.store import MARK, all_faults, is_whole


def take(stores: Sequence[str], nodes: Iterable) -> None:
    """Link each missing artifact that one of the stores holds, after a check of all its bytes.

    A damaged one is told and not taken.
    """
    for node in nodes:
        for entry in find(stores, node):
            if not is_whole(node.entry):
                _link(entry, node.entry, node.name)


def check(stores: Sequence[str]) -> None:
    """Raise UserError if one of the folders is no store."""
    for store in stores:
        if not Path(store, MARK).is_file():
            raise UserError(f"config: stores: {store} is no store: it has no {MARK}")


def find(stores: Sequence[str], node) -> list[Path]:
    """The entries of an artifact in these stores."""
    entries = [Path(store, node.step, node.digest) for store in stores]
    return [entry for entry in entries if is_whole(entry)]


def _link(theirs: Path, ours: Path, name: str) -> None:
    if faults := all_faults(theirs):
        say(f"{name} is not taken from {theirs}: {'; '.join(faults)}")
        return
    ours.parent.mkdir(parents=True, exist_ok=True)
    if ours.is_symlink():  # to what is gone
        ours.unlink()
    ours.symlink_to(theirs.absolute())
    say(f"{name} is taken from {theirs}")
