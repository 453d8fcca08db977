"""Checkpoints: from the newest sound one a training that was cut off goes on to the same bytes.

Those of `results/moe_sft` lie in `results/.moe_sft.training/<fingerprint>/checkpoint-<step>`, each
with a manifest beside it that is written last. The fingerprint is over all that the result depends
on: a changed parameter, input or module never meets another training's checkpoints.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_scripts.checkpoints.artifact import check_artifact, lock, seal
from workflow_scripts.checkpoints.manifest import manifest_path
from workflow_scripts.errors import UserError

KIND = "checkpoint"
BEST_FILE = "best.safetensors"
KEPT = 2  # the newest may be damaged
NAME = re.compile(r"checkpoint-(\d+)")


def fingerprint(**dependencies) -> str:
    """SHA-256 over JSON values."""
    content = json.dumps(dependencies, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


class Checkpoints:
    """The checkpoints of the training that makes `out`. Each process of a training has one.

    folder: where the Trainer puts them. seconds: between two of them.
    """

    def __init__(self, out: Path, fingerprint: str, seconds: float, is_main_process: bool = True):
        self.seconds = seconds
        self.root = out.parent / f".{out.name}.training"
        self.folder = self.root / fingerprint[:16]
        self.best = self.folder / BEST_FILE  # the weights with the lowest validation loss so far
        self.is_main_process = is_main_process

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other trainings of the same output away, and drop checkpoints that are of no use.

        At the end, unless by an exception, all are removed. The main process does this for all.
        Raises UserError where another process trains for this output.
        """
        if not self.is_main_process:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock(self.root):
                self._drop_others()
                self._drop_damaged()
                self._restore_best()
                yield
                shutil.rmtree(self.root)
        except BlockingIOError:
            raise UserError(f"{self.root} is in use: another process trains for it now") from None

    def newest(self) -> Path | None:
        """The newest whole checkpoint, if there is one. Its content was checked by `claimed`."""
        return max(self._sealed(), key=step_of, default=None)

    def seal(self, step: int) -> None:
        """Declare the checkpoint of this step, to which the best weights so far belong, whole, and
        drop all but the newest ones.
        """
        folder = self.folder / f"checkpoint-{step}"
        if self.best.exists():
            _link(self.best, folder / BEST_FILE)
        seal(folder, KIND)
        for checkpoint in sorted(self._sealed(), key=step_of)[:-KEPT]:
            remove(checkpoint)

    def _sealed(self) -> list[Path]:
        return [path for path in self._all() if manifest_path(path).exists()]

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if NAME.fullmatch(path.name)]

    def _drop_others(self) -> None:
        for path in self.root.iterdir():
            if path != self.folder:
                shutil.rmtree(path)

    def _drop_damaged(self) -> None:
        """Remove checkpoints, from the newest on, until one is whole."""
        for checkpoint in sorted(self._all(), key=step_of, reverse=True):
            if manifest_path(checkpoint).exists():
                try:
                    check_artifact(checkpoint, KIND, full=True)
                    return
                except UserError as error:
                    print(f"{error}: going on from the one before", file=sys.stderr)
            remove(checkpoint)

    def _restore_best(self) -> None:
        """Let the best weights be those of when the newest checkpoint was written."""
        self.best.unlink(missing_ok=True)
        newest = self.newest()
        if newest is not None and (newest / BEST_FILE).exists():
            _link(newest / BEST_FILE, self.best)


def _link(file: Path, other: Path) -> None:
    """Give a file another name, or copy it where the disk knows no links."""
    other.unlink(missing_ok=True)
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; its manifest first, so that no part of it is taken for the whole."""
    manifest_path(checkpoint).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
