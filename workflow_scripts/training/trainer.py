"""The training loop of steps 2 and 6: transformers' Trainer with our options and checkpoints."""

import math
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from workflow_scripts.data.instructions import IGNORED
from workflow_scripts.errors import UserError
from workflow_scripts.training.callbacks import (
    MetricsCallback,
    ProgressCallback,
    SaveCallback,
    StopRequest,
)
from workflow_scripts.training.checkpoints import Checkpoints
from workflow_scripts.training.engines import (
    check_engine,
    engine_arguments,
    inexact_in_bf16,
    prepare_engine,
    set_masters,
    shards_weights,
    whole_weights,
)

OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor"}
SCHEDULERS = {"wsd": "warmup_stable_decay"}  # where our name is not transformers'
DECAY_SHARE = 0.1  # of the steps of wsd
LEARNED_FILE = "learned.safetensors"
METRICS_FILE = "metrics.jsonl"
TORCH_WRITER = "inline_container"  # torch.save tells of a full disk by a RuntimeError of this file


def train(
    model,
    examples: list[dict],
    tokenizer,
    options: dict,
    seed: int,
    checkpoints: Checkpoints,
    metrics_file: Path | None = None,
    mixing=None,
) -> dict[str, torch.Tensor]:
    """Train `model` in place on tokenised `examples`, from the newest of `checkpoints` on.

    Returns the learned tensors by name, which only the main process's caller may count on.

    options: the config's section `training` or the like of it in `mixing`. Each step's loss,
    learning rate, and routing or mixing statistics become a line of `metrics_file`. mixing: the
    `modeling.mixing.Mixing` of `model`, whose logits learn in its place.

    Raises UserError where a loss or a gradient is not finite, or a checkpoint cannot be written,
    and SystemExit after a SIGTERM, once a checkpoint is written.
    """
    prepare_engine(options)
    arguments = _arguments(options, seed, str(checkpoints.folder))
    trainer = ResumingTrainer(
        model, examples, tokenizer, arguments, options, checkpoints, metrics_file, mixing
    )
    newest = trainer.newest_checkpoint()
    trainer.report(newest)
    with StopRequest(arguments.process_index == 0) as stop:
        saving = SaveCallback(checkpoints.seconds, stop)
        trainer.add_callback(saving)
        trainer.train(resume_from_checkpoint=newest and str(newest))
    if saving.stopped:
        sys.exit(128 + signal.SIGTERM)
    return whole_weights(trainer, trainer.learned, options)


class ResumingTrainer(Trainer):
    """A Trainer whose checkpoints are whole or not there, and that stops at the first NaN.

    learned: the module that learns, all that a checkpoint holds of the model.
    """

    def __init__(
        self, model, examples, tokenizer, arguments, options, checkpoints, metrics_file, mixing
    ):
        optimizer = None
        if mixing is not None:
            optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
            optimizer = mixing.build_optimizer(optimizer_class, settings, options["max_grad_norm"])
            arguments.max_grad_norm = 0.0
        super().__init__(
            model=model,
            args=arguments,
            optimizers=(optimizer, None),
            train_dataset=examples,
            data_collator=RowCollator(tokenizer),
        )
        self.remove_callback(PrinterCallback)
        if mixing is not None:  # DDP refuses a model in which nothing learns
            prepare_model = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare_model, evaluation_mode=True)
        self.learned = model if mixing is None else mixing.logits
        self.mixing = mixing
        self.options = options
        self.checkpoints = checkpoints
        self.metrics_file = metrics_file
        self.rows = []
        self.routing = []  # statistics of each layer in the last batch

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.args.lr_scheduler_type == SCHEDULERS["wsd"]:
            decay = max(round(DECAY_SHARE * num_training_steps), 1)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": decay, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        begins = resume_from_checkpoint is None
        exact = inexact_in_bf16(self.model, self.options) if begins else {}
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, resume_from_checkpoint
        )
        check_engine(self, self.options, has_own_gradients=self.mixing is not None)
        set_masters(self.model, exact)
        return prepared

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, the same in each process."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the main process may still drop damaged ones
        return self.checkpoints.newest()

    def report(self, newest: Path | None) -> None:
        """Add progress and metrics, of the main process: it speaks for all."""
        if self.args.process_index != 0:
            return
        self.add_callback(ProgressCallback)
        if newest is not None:
            print(f"going on from {newest}", file=sys.stderr)
        if self.metrics_file is not None:
            extra = self.routing_metrics if self.mixing is None else self.mixing.metrics
            before = newest / METRICS_FILE if newest else None
            text = before.read_text(encoding="utf-8") if before and before.exists() else ""
            self.add_callback(MetricsCallback(self.metrics_file, extra, text))

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.rows.append(inputs.pop("row"))
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.mixing is None and self.metrics_file is not None:
            self.routing = [routing.statistics() for routing in outputs.routing]
        return (loss, outputs) if return_outputs else loss

    def routing_metrics(self) -> dict[str, list]:
        """The statistics of the main process's last batch, of each layer."""
        return {name: [rounded(layer[name]) for layer in self.routing] for name in self.routing[0]}

    def log(self, logs, start_time=None):
        if "loss" in logs:
            self._check_finite(logs)
            self.rows.clear()
        super().log(logs, start_time)

    def _check_finite(self, logs: dict) -> None:
        """Raise UserError with the batch where the loss or a gradient is not finite."""
        norm = self.mixing.gradient_norm if self.mixing else logs.get("grad_norm", 0.0)
        if math.isfinite(logs["loss"]) and math.isfinite(norm):
            return
        rows = self._rows_of_all_processes()
        raise UserError(
            f"step {self.state.global_step}: loss {logs['loss']}, gradient norm {norm}. "
            f"Rows of the batch, counted from 1: {', '.join(map(str, rows))}. "
            f"Last good checkpoint: {self.checkpoints.newest() or 'none yet'}. Look at these rows, "
            "or lower the learning rate"
        )

    def _rows_of_all_processes(self) -> list[int]:
        rows = torch.cat(self.rows).to(self.args.device)
        rows = self.accelerator.pad_across_processes(rows)  # by zeros; rows count from 1
        return [number for number in self.accelerator.gather(rows).tolist() if number]

    def _save_checkpoint(self, model, trial):
        step = self.state.global_step
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if self.metrics_file is not None:
                    folder = self.checkpoints.folder / f"checkpoint-{step}"
                    shutil.copyfile(self.metrics_file, folder / METRICS_FILE)
                self.checkpoints.seal(step)
            self.accelerator.wait_for_everyone()  # a process that ends may end the others
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
                raise
            self.checkpoints.abandon(step)
            free = shutil.disk_usage(self.checkpoints.folder).free
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.checkpoints.folder}, "
                f"where {free / 1e6:.0f} MB are free: {error}. Make room and run it again: it goes "
                "on from the checkpoint before"
            ) from None

    def save_model(self, output_dir=None, _internal_call=False):
        if not shards_weights(self.options):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_model(self.learned, str(Path(output_dir) / LEARNED_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if shards_weights(self.options):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_model(self.learned, str(Path(resume_from_checkpoint) / LEARNED_FILE))
        if self.mixing is not None:
            self.mixing.merge()


def rounded(values: torch.Tensor) -> list | float:
    """A tensor's values, to four digits after the point."""
    return values.double().mul(1e4).round().div(1e4).tolist()


class RowCollator:
    """Pads a batch; `row` [batch] says which rows it holds."""

    def __init__(self, tokenizer):
        self.pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)

    def __call__(self, examples: list[dict]) -> dict:
        batch = self.pad(
            [{key: example[key] for key in ("input_ids", "labels")} for example in examples]
        )
        return batch | {"row": torch.tensor([example["row"] for example in examples])}


def _arguments(options: dict, seed: int, folder: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=options["epochs"],
        max_steps=options["max_steps"] or -1,
        per_device_train_batch_size=options["per_device_batch_size"],
        gradient_accumulation_steps=options["gradient_accumulation_steps"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type=SCHEDULERS.get(options["scheduler"], options["scheduler"]),
        warmup_steps=options["warmup_steps"],
        optim=OPTIMIZERS[options["optimizer"]],
        weight_decay=0.0,
        max_grad_norm=options["max_grad_norm"] or 0.0,
        bf16=options["precision"] == "bf16",
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # an expert without tokens has a gradient of zeros
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **engine_arguments(options),
    )
    # A process drives one GPU. With more in sight the Trainer would split batches by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
