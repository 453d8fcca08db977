"""Saves a training: whole or not at all, and no weights but those that learn.

An interrupted training continues from the newest undamaged checkpoint. Its result then has the same
bytes as without a break.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from xft.artifacts.artifact import check_artifact, seal
from xft.artifacts.claims import OWNER, claimed
from xft.artifacts.manifest import manifest_path
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.training import KEPT
from xft.training.engines import by_all_names, learned_parameters, shards_weights, whole_parameters
from xft.training.metrics import METRICS_FILE

KIND = "checkpoint"
BEST_FILE = "best.safetensors"
NAME = re.compile(r"checkpoint-(\d+)")
LEARNED_FILE = "learned.safetensors"
TORCH_WRITER = "inline_container"  # the file in torch.save's RuntimeError if the disk is full


class SavingTrainer(Trainer):
    """A Trainer that never leaves a partial checkpoint.

    A checkpoint holds no weights but those that learn, and no frozen ones but those of an engine
    that shards the weights. A subclass sets:

    training: the `trainer.Training`.
    options: those of the training.
    learned: the module that learns.
    average: the `WeightAverage`, or None.
    """

    def keep_as_best(self) -> None:
        """Save the present weights as the best ones."""
        best = self.training.checkpoints.best
        with self._writing(f"the weights of step {self.state.global_step}", best):
            self._save_learned(best)

    def result(self) -> dict[str, torch.Tensor]:
        """The weights to keep, by name. The model gets them too, unless the engine shards them."""
        if self.eval_dataset and self.options.keep == "best":
            self.accelerator.wait_for_everyone()
            learned = load_file(self.training.checkpoints.best)
            if not shards_weights(self.options):
                self._set_learned(learned)
        elif self.average is not None:
            learned = self.average.tensors
        else:
            learned = self._whole_learned()
        return by_all_names(self.learned, learned) if self.args.process_index == 0 else {}

    def _whole_learned(self) -> dict[str, torch.Tensor]:
        """The learned weights so far, in the CPU's memory of the main process."""
        whole = whole_parameters(self.learned, self.options)
        return {name: value.cpu() for name, value in whole if self.args.process_index == 0}

    def _save_checkpoint(self, model, trial):
        step = self.state.global_step
        training = self.training
        folder = training.checkpoints.folder / f"checkpoint-{step}"
        with self._writing(f"the checkpoint of step {step}", folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                for file, callback in self._stateful(folder):
                    save_file(callback.state_dict(), file)
                if training.metrics_file is not None:
                    shutil.copyfile(training.metrics_file, folder / METRICS_FILE)
                training.checkpoints.seal(step)
            self.accelerator.wait_for_everyone()  # a process that ends early may end the others

    @contextmanager
    def _writing(self, what: str, folder: Path):
        """If the folder cannot be written, remove its remains and raise UserError."""
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
                raise
            remove(folder)
            free = shutil.disk_usage(folder.parent).free
            raise UserError(
                f"{what} could not be written to {folder.parent}, where {free / 1e6:.0f} MB are "
                f"free: {error}. Free some space, and run the same command again. It continues "
                "from the checkpoint before"
            ) from None

    def save_model(self, output_dir=None, _internal_call=False):
        """Write what has been learned, unless the engine writes it with the optimiser's state."""
        if not shards_weights(self.options):
            self._save_learned(Path(output_dir) / LEARNED_FILE)

    def _save_learned(self, file: Path) -> None:
        learned = self._whole_learned()
        if self.args.should_save:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(learned, file)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if shards_weights(self.options):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._set_learned(load_file(Path(resume_from_checkpoint) / LEARNED_FILE))
        for file, callback in self._stateful(Path(resume_from_checkpoint)):
            callback.load_state_dict(load_file(file, str(self.args.device)))

    def _stateful(self, folder: Path) -> list[tuple[Path, TrainerCallback]]:
        """The average and the user's callbacks that have a state, with its file in a checkpoint."""
        stateful = []
        for number, callback in enumerate([self.average, *self.training.callbacks]):
            if hasattr(callback, "state_dict"):
                stateful.append((folder / f"callback-{number}.safetensors", callback))
        return stateful

    @torch.no_grad()
    def _set_learned(self, learned: dict[str, torch.Tensor]) -> None:
        for name, parameter in learned_parameters(self.learned):
            parameter.copy_(learned[name])
        if self.training.mixing is not None:
            self.training.mixing.merge()


class Checkpoints:
    """The checkpoints of the training that makes `out`.

    Those of an artifact `moe_sft` lie beside it, in
    `.moe_sft.training/<fingerprint>/checkpoint-<step>`. Each has a manifest beside it, which is
    written last. The fingerprint covers everything that the result depends on, so a training with
    another parameter or input never uses these checkpoints. They stay, and the old training
    continues if its settings come back.

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
            (self.root / OWNER).unlink()  # under its lock: see `claims.lock`
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
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            if not sizes:
                shutil.rmtree(folder)
                continue
            say(
                f"{folder} holds checkpoints of a training with other settings, "
                f"{sum(sizes) / 1e6:,.1f} MB. It continues if its settings come back. Delete "
                "the folder if you do not need it any more"
            )

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
