"""Checkpoints of trainings. An interrupted training continues from the newest undamaged one.

Its result then has the same bytes as without a break. The checkpoints of an artifact `moe_sft` lie
beside it, in `.moe_sft.training/<fingerprint>/checkpoint-<step>`. Each has a manifest beside it,
which is written last. The fingerprint covers everything that the result depends on, so a training
with another parameter or input never uses these checkpoints. They stay, and the old training
continues if its settings come back.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xft.artifacts.artifact import check_artifact, seal
from xft.artifacts.claims import OWNER, claimed
from xft.artifacts.manifest import manifest_path
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.training import KEPT

KIND = "checkpoint"
BEST_FILE = "best.safetensors"
NAME = re.compile(r"checkpoint-(\d+)")


class Checkpoints:
    """The checkpoints of the training that makes `out`.

    folder: where the Trainer writes them.
    seconds: the least time between two of them.
    """

    def __init__(self, out: Path, fingerprint: str, seconds: float):
        self.seconds = seconds
        self.root = out.parent / f".{out.name}.training"
        self.folder = self.root / fingerprint[:16]
        self.best = self.folder / BEST_FILE  # the weights with the lowest validation loss so far

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock out other trainings of the same output, and remove damaged checkpoints.

        Only the main process of a training enters this block. If it ends without an exception, the
        checkpoints of this training are removed. Raises UserError if another training has the
        output.
        """
        with claimed(self.root / OWNER, f"trains in {self.root}"):
            self.folder.mkdir(exist_ok=True)
            self._tell_of_others()
            self._drop_damaged()
            self._restore_best()
            yield
            shutil.rmtree(self.folder)
            (self.root / OWNER).unlink()
        with suppress(OSError):  # it may hold checkpoints of other trainings
            self.root.rmdir()

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None. `claimed` has checked its content."""
        return max(self._sealed(), key=step_of, default=None)

    def seal(self, step: int) -> None:
        """Mark the checkpoint of this step as complete, and remove all except the newest ones.

        The best weights so far become part of it.
        """
        folder = self.folder / f"checkpoint-{step}"
        if self.best.exists():
            shutil.copyfile(self.best, folder / BEST_FILE)
        seal(folder, KIND)
        for checkpoint in sorted(self._sealed(), key=step_of)[:-KEPT]:
            remove(checkpoint)

    def _sealed(self) -> list[Path]:
        return [path for path in self._all() if manifest_path(path).exists()]

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("*") if NAME.fullmatch(path.name)]

    def _tell_of_others(self) -> None:
        """Report the checkpoints of other trainings. Their empty folders are removed."""
        folders = {path for path in self.root.iterdir() if path.is_dir()}
        for folder in sorted(folders - {self.folder}):
            if sizes := [path.stat().st_size for path in folder.rglob("*") if path.is_file()]:
                say(
                    f"{folder} holds checkpoints of a training with other settings, "
                    f"{sum(sizes) / 1e6:,.1f} MB. It continues if its settings come back. Delete "
                    "the folder if you do not need it any more"
                )
            else:
                shutil.rmtree(folder)

    def _drop_damaged(self) -> None:
        """Remove damaged checkpoints, from the newest on, down to the first complete one."""
        for checkpoint in sorted(self._all(), key=step_of, reverse=True):
            if manifest_path(checkpoint).exists():
                try:
                    check_artifact(checkpoint, KIND, full=True)
                    return
                except UserError as error:
                    say(f"{error}. Continuing from the one before")
            remove(checkpoint)

    def _restore_best(self) -> None:
        """Set the best weights to those in the newest checkpoint, if it has any."""
        self.best.unlink(missing_ok=True)
        newest = self.newest()
        if newest is not None and (newest / BEST_FILE).exists():
            shutil.copyfile(newest / BEST_FILE, self.best)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(NAME.fullmatch(checkpoint.name)[1])


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint. Its manifest goes first, so that the rest never looks complete."""
    manifest_path(checkpoint).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
