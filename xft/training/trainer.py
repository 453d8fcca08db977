"""The training loop of steps 2 and 6: transformers' Trainer with our options and losses."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from xft.common.devices import advice_on_nan
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.training import TrainingConfig
from xft.modeling.packed_attention import FLASH, use_packed_attention
from xft.training import engines
from xft.training.averaging import WeightAverage
from xft.training.balance import GlobalCounts
from xft.training.batches import LengthSampler, RowCollator, packed, padded, without_repeats
from xft.training.callbacks import MetricsCallback, ProgressCallback, SaveCallback, StopRequest
from xft.training.checkpoints import Checkpoints, step_of
from xft.training.losses import LabelledLoss
from xft.training.saving import METRICS_FILE, SavingTrainer
from xft.training.throughput import Throughput
from xft.training.validation import VALIDATION_LOSS, validation_loss, validations_since_best

DECAY_SHARE = 0.1  # of the steps of warmup_stable_decay


@dataclass(frozen=True)
class Training:
    """A model to train, its rows, and the options.

    examples, validation: tokenised rows, to train on and held out. options: the section of the
    configuration. metrics_file: gets a line for each step, with loss, learning rate, and routing or
    mixing statistics, and a line for each validation loss. mixing: the `modeling.mixing.Mixing` of
    `model`; its logits learn, and the model does not. distillation: the
    `training.distillation.Distillation`; None if the labels alone are learned. losses: the
    `training.validation.ArtifactLosses`, if the model after the last step becomes an artifact.
    tracking: gives the callbacks of trackers for the identity of the training and what else to
    report.
    """

    model: torch.nn.Module
    examples: Sequence[dict]
    tokenizer: object
    options: TrainingConfig
    seed: int
    checkpoints: Checkpoints
    validation: Sequence[dict] = ()
    metrics_file: Path | None = None
    mixing: object = None
    distillation: object = None
    losses: object = None
    tracking: Callable | None = None


def train(training: Training) -> dict[str, torch.Tensor]:
    """Train a model in place, from its newest checkpoint on.

    Returns the learned tensors by name in the main process, and nothing in the others.

    Raises UserError if a loss or a gradient is not finite, or if a checkpoint cannot be written.
    After SIGTERM or Ctrl-C it writes a checkpoint and raises SystemExit.
    """
    trainer = ResumingTrainer(training)
    trainer.accelerator.wait_for_everyone()  # the main process may still remove damaged ones
    newest = trainer.checkpoints.newest()
    trainer.report(newest)
    with StopRequest(trainer.args.process_index == 0) as stop:
        saving = SaveCallback(trainer.checkpoints.seconds, stop)
        trainer.add_callback(saving)
        trainer.train(resume_from_checkpoint=newest and str(newest))
    if saving.stopped and not trainer.stopped_early:
        if trainer.args.process_index == 0:
            step = trainer.state.global_step
            say(f"stopped. Run the same command again to continue from step {step}")
        sys.exit(stop.status)
    return trainer.result()


class ResumingTrainer(SavingTrainer):
    """A Trainer that goes on from a checkpoint to the same bytes, and stops at the first NaN."""

    def __init__(self, training: Training):
        options, mixing, checkpoints = training.options, training.mixing, training.checkpoints
        model, validation = training.model, list(training.validation)
        engines.prepare_engine(options)
        arguments = _arguments(options, training.seed, str(checkpoints.folder), bool(validation))
        optimizer = None
        if mixing is not None:
            optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
            optimizer = mixing.build_optimizer(optimizer_class, settings, options.max_grad_norm)
            arguments.max_grad_norm = 0.0
        super().__init__(
            model=model,
            args=arguments,
            optimizers=(optimizer, None),
            train_dataset=training.examples,
            eval_dataset=validation,
            data_collator=_collator(training),
        )
        self.remove_callback(PrinterCallback)
        if mixing is not None:  # DDP refuses a model in which nothing learns
            prepare_model = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare_model, evaluation_mode=True)
        self.options = options
        self.learned = model if mixing is None else mixing.logits
        self.mixing = mixing
        self.loss = LabelledLoss(model, options.launch != "zero3", training.distillation)
        self.checkpoints = checkpoints
        self.metrics_file = training.metrics_file
        self.losses = training.losses
        self.tracking = training.tracking
        self.throughput = Throughput()
        self.counts = None
        if options.balance_loss_batch == "global":
            self.counts = model.complete_counts = GlobalCounts()
        self.average = None
        if options.ema_decay is not None:
            self.average = WeightAverage(model, options.ema_decay)
            self.add_callback(self.average)
        self.batches, self.rows = [], []  # of this optimiser step
        self.routing = []  # statistics of each layer of a mixture in the last batch
        self.parts = []  # [2], cross-entropy and KL of each batch of this step, with distillation
        self.stopped_early = False

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.args.lr_scheduler_type == "warmup_stable_decay":
            decay = max(round(DECAY_SHARE * num_training_steps), 1)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": decay, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if fault := self.options.fault_of_steps(max_steps):
            raise UserError(fault)
        begins = resume_from_checkpoint is None
        exact = engines.inexact_in_bf16(self.model, self.options) if begins else {}
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, resume_from_checkpoint
        )
        engines.set_masters(self.model, exact)
        if self.average is not None and not begins:
            self.average.load(Path(resume_from_checkpoint), self.args.device)
        return prepared

    def report(self, newest: Path | None) -> None:
        """Report progress and metrics. Only the main process does so."""
        if self.args.process_index != 0:
            return
        self.add_callback(ProgressCallback(self.throughput))
        if self.options.batching == "packed":
            say(f"packed rows, with attention by {self.model.config._attn_implementation}")
        if newest is not None:
            say(f"continuing from step {step_of(newest)}")
        extra = self.routing_metrics if self.mixing is None else self.mixing.metrics
        if self.metrics_file is not None:
            before = newest / METRICS_FILE if newest else None
            text = before.read_text(encoding="utf-8") if before and before.exists() else ""
            self.add_callback(MetricsCallback(self.metrics_file, extra, text))
        if self.tracking is not None:
            for callback in self.tracking(self.checkpoints.folder.name, extra):
                self.add_callback(callback)

    def _get_train_sampler(self, train_dataset=None):
        if self.options.batching != "by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        seed, epoch = self.args.data_seed, lambda: int(self.state.epoch)
        return LengthSampler(self.train_dataset.lengths, rows, seed, epoch)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        size, world = self.args.train_batch_size, self.args.world_size
        rows, parts = len(self.train_dataset), self.args.gradient_accumulation_steps
        done = self.state.global_step % math.ceil(rows / (size * world * parts)) * parts
        place = (done * world + self.args.process_index) * size
        batches = without_repeats(epoch_iterator, rows, place, size * world)
        self.batches, num_items = super().get_batch_samples(batches, num_batches, device)
        self.throughput.count(self.batches)
        self.rows = [batch.pop("row") for batch in self.batches]
        return self.batches, num_items

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.counts is not None and inputs is self.batches[0]:
            self._count_ahead(model)
        return super().training_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def _count_ahead(self, model) -> None:
        """If gradients are accumulated, count all batches first, with the noise that follows."""
        if self.args.gradient_accumulation_steps == 1:
            return
        model.train()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.counts.ahead():
            for batch in self.batches:
                inputs = {key: value for key, value in batch.items() if key != "labels"}
                model(**self._prepare_inputs(inputs), output_router_logits=True, logits_to_keep=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.loss.distillation is not None:
            self.loss.teach(inputs)
        options = self.loss.options(inputs["labels"])
        loss, outputs = super().compute_loss(model, inputs | options, True, num_items_in_batch)
        if self.loss.distillation is not None:
            # All processes' tokens count, and the gradients are averaged over the processes.
            tokens = num_items_in_batch / self.accelerator.num_processes
            self.parts.append(self.loss.parts.sum(dim=0) / tokens)
        logs_routing = self.metrics_file is not None or self.tracking is not None
        logs_here = self.args.process_index == 0 and self.accelerator.sync_gradients
        if logs_routing and logs_here and hasattr(outputs, "routing"):
            self.routing = [routing.statistics() for routing in outputs.routing]
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of the gradient. The Trainer also multiplies all gradients by 1 for it."""
        if grad_norm is not None or engines.shards_weights(self.options):
            return super()._get_grad_norm(model, grad_norm)
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def routing_metrics(self) -> dict[str, list]:
        """The statistics of each layer for the last batch of the main process."""
        names = self.routing[0] if self.routing else []
        return {name: [rounded(layer[name]) for layer in self.routing] for name in names}

    def log(self, logs, start_time=None):
        if "loss" in logs:
            self._check_finite(logs)
            if self.loss.distillation is not None:
                logs = logs | self._taken_parts()
        super().log(logs, start_time)

    def _check_finite(self, logs: dict) -> None:
        """Raise UserError with the batch's rows if the loss or a gradient is not finite."""
        norm = self.mixing.gradient_norm if self.mixing else logs.get("grad_norm", 0.0)
        if math.isfinite(logs["loss"]) and math.isfinite(norm):
            return
        rows = self._rows_of_all_processes()
        raise UserError(
            f"step {self.state.global_step}: loss {logs['loss']}, gradient norm {norm}. "
            f"Rows of the batch, counted from 1: {', '.join(map(str, rows))}. "
            f"Last good checkpoint: {self.checkpoints.newest() or 'none yet'}. Check these rows, "
            f"or lower the learning rate{advice_on_nan()}"
        )

    def _taken_parts(self) -> dict[str, float]:
        """The cross-entropy and KL of this optimiser step, of all processes."""
        own, self.parts = torch.stack(self.parts).sum(0, keepdim=True), []
        ce, kl = self.accelerator.gather(own).mean(0).tolist()
        return {"ce": ce, "kl": kl}

    def _rows_of_all_processes(self) -> list[int]:
        rows = torch.cat(self.rows).to(self.args.device)
        rows = self.accelerator.pad_across_processes(rows)  # by zeros; rows count from 1
        return [number for number in self.accelerator.gather(rows).tolist() if number]

    def evaluate(self, *_, **__):
        """Log the loss on the validation rows. Then keep the weights or stop, as configured."""
        step, given = self.state.global_step, (self.model, self.loss, self.eval_dataset)
        if self.losses is not None and step == self.state.max_steps:
            loss = self.losses.measure(*given)
        else:
            make, size = self.data_collator, self.args.per_device_train_batch_size
            loss = validation_loss(*given, lambda rows: self._prepare_inputs(make(rows)), size)
        if not math.isfinite(loss):
            raise UserError(f"step {step}: validation loss {loss}. Lower the learning rate")
        metrics = {VALIDATION_LOSS: loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        since_best = validations_since_best(self.state.log_history)
        if self.options.keep == "best" and since_best == 0:
            self.keep_as_best()
        self.stopped_early = since_best == self.options.early_stopping_patience
        if self.stopped_early:
            self.control.should_training_stop = True
            self.control.should_save = False  # the result follows
            if self.args.process_index == 0:
                say(
                    f"step {step}: {since_best} validation losses in a row are not lower than the "
                    "lowest before. The training ends"
                )
        return metrics


def rounded(values: torch.Tensor) -> list | float:
    """A tensor's values, rounded to four digits after the decimal point."""
    return values.double().mul(1e4).round().div(1e4).tolist()


def _collator(training: Training) -> RowCollator:
    options = training.options
    if options.batching != "packed":
        return padded(training.tokenizer)
    half_precision = options.precision != "fp32"
    attention = use_packed_attention(training.model, half_precision)
    if training.distillation is not None:
        use_packed_attention(training.distillation.teacher.model, half_precision)
    return packed(row_bounds=attention == FLASH)


def _arguments(
    options: TrainingConfig, seed: int, folder: str, validates: bool
) -> TrainingArguments:
    """Keys of the same name are handed on as they are. None means the default, if not said here.

    By default no weight decays, and nothing is reported.
    """
    known = {field.name for field in fields(TrainingArguments)}
    same = options.model_dump(include=known - {"max_grad_norm", "eval_steps"}, exclude_none=True)
    arguments = TrainingArguments(
        output_dir=folder,
        **same,
        max_grad_norm=options.max_grad_norm or 0.0,
        bf16=options.precision == "bf16",
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # an expert without tokens has a gradient of zeros
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="steps" if validates else "no",  # and after the last step
        eval_steps=options.eval_steps or sys.maxsize,
        disable_tqdm=True,
        remove_unused_columns=False,
        **engines.engine_arguments(options),
    )
    # A process uses one GPU. If it sees more, the Trainer would split batches with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
