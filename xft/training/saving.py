"""What a training saves: whole or not at all, and no weights but those that learn."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from xft.common.errors import UserError
from xft.training.callbacks import METRICS_FILE
from xft.training.checkpoints import remove
from xft.training.engines import by_all_names, learned_parameters, shards_weights, whole_parameters

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
        """What has been learned so far, in the CPU's memory of the main process."""
        whole = whole_parameters(self.learned, self.options)
        return {name: value.cpu() for name, value in whole if self.args.process_index == 0}

    def _save_checkpoint(self, model, trial):
        step, training = self.state.global_step, self.training
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
        numbered = enumerate([self.average, *self.training.callbacks])
        return [
            (folder / f"callback-{number}.safetensors", callback)
            for number, callback in numbered
            if hasattr(callback, "state_dict")
        ]

    @torch.no_grad()
    def _set_learned(self, learned: dict[str, torch.Tensor]) -> None:
        for name, parameter in learned_parameters(self.learned):
            parameter.copy_(learned[name])
        if self.training.mixing is not None:
            self.training.mixing.merge()
