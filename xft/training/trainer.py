"""The training loop of steps 2 and 6: transformers' Trainer with our options and losses."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.training import TrainingConfig
from xft.training import engines, features, metrics
from xft.training.at_end import VALIDATION_LOSS
from xft.training.batches import LengthSampler, make_collator, without_repeats
from xft.training.losses import LabelledLoss, validation_loss
from xft.training.ranks import is_main_process, say_once
from xft.training.saving import Checkpoints, SavingTrainer, step_of

DECAY_SHARE = 0.1  # of the steps of warmup_stable_decay


@dataclass(frozen=True)
class Training:
    """A model to train, its rows, and the options.

    examples, validation: tokenised rows, to train on and held out.
    tokenizer: the model's.
    options: the section of the configuration.
    seed: of the order of the rows, and of the noise.
    checkpoints: the place for them, which is claimed.
    metrics_file: gets a line for each step, with loss, learning rate, and routing or mixing
    statistics, and a line for each validation loss.
    mixing: the `modeling.mixing.Mixing` of `model`; its logits learn, and the model does not.
    losses: the `training.losses.ArtifactLosses`, if the model after the last step becomes an
    artifact.
    tracking: gives the callbacks of trackers for the identity of the training and what else to
    report.
    callbacks: of the user's. One that is a `Feature` too gets its hooks.
    stop: notes the signals, inside its block, which also holds what is done with the result.
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
    losses: object = None
    tracking: Callable | None = None
    callbacks: Sequence[TrainerCallback] = ()
    stop: features.StopRequest = field(default_factory=features.StopRequest)


def train(training: Training) -> dict[str, torch.Tensor]:
    """Train a model in place, from its newest checkpoint on.

    Returns the learned tensors by name in the main process, and nothing in the others.

    Raises `features.Diverged` if a loss or a gradient is not finite, and UserError if a checkpoint
    cannot be written. After a request to stop it writes a checkpoint and raises SystemExit.
    """
    trainer = ResumingTrainer(training)
    trainer.accelerator.wait_for_everyone()  # the main process may still remove damaged ones
    newest = training.checkpoints.newest()
    trainer.report(newest)
    if newest is None:
        trainer.add_callback(engines.MastersCallback(training.model, training.options))
    saving = features.SaveCallback(training.checkpoints.seconds, training.stop)
    trainer.add_callback(saving)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    if saving.stopped and not trainer.ending.stopped_early:
        step = trainer.state.global_step
        say_once(f"stopped. Run the same command again to continue from step {step}")
        sys.exit(training.stop.status)
    training.stop.is_done = True
    return trainer.result()


class ResumingTrainer(SavingTrainer):
    """A Trainer that goes on from a checkpoint to the same bytes.

    features: what the training does besides. The hooks of each are called in this order.
    """

    def __init__(self, training: Training):
        options = training.options
        model = training.model
        mixing = training.mixing
        steps = options.steps(len(training.examples), options.global_batch)
        fault = options.fault_of_steps(steps)
        if fault:
            raise UserError(fault)
        validation = list(training.validation)
        engines.prepare_engine(options)
        folder = str(training.checkpoints.folder)
        arguments = training_arguments(options, training.seed, folder, steps, bool(validation))
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
            data_collator=make_collator(options, training.tokenizer, model),
            callbacks=[*training.callbacks],
        )
        self.remove_callback(PrinterCallback)
        if mixing is not None:  # DDP refuses a model in which nothing learns
            prepare_model = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare_model, evaluation_mode=True)
        self.training = training
        self.options = options
        self.learned = model if mixing is None else mixing.logits
        self.loss = LabelledLoss(model, whole_head=options.launch != "zero3")
        self.throughput = metrics.Throughput()
        self.features = [features.FiniteCheck(self.accelerator, training.checkpoints, mixing)]
        for callback in training.callbacks:
            if isinstance(callback, features.Feature):
                self.features.append(callback)
        self.ending = features.ValidationCallback(options, self.keep_as_best)
        self.add_callback(self.ending)
        self.average = None
        if options.ema_decay is not None:
            self.average = features.WeightAverage(model, options.ema_decay)
            self.add_callback(self.average)

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        for feature in self.features:
            feature.on_optimizer(self.model, optimizer)
        return optimizer

    def report(self, newest: Path | None) -> None:
        """Report progress and metrics. Only the main process does so."""
        if not is_main_process():
            return
        training = self.training
        self.add_callback(metrics.ProgressCallback(self.throughput))
        if self.options.batching == "packed":
            say(f"packed rows, with attention by {self.model.config._attn_implementation}")
        if newest is not None:
            say(f"continuing from step {step_of(newest)}")
        if training.metrics_file is None and training.tracking is None:
            return
        statistics = training.mixing
        if statistics is None:
            statistics = features.RoutingStatistics(self.accelerator)
            self.features.append(statistics)
        if training.metrics_file is not None:
            self.add_callback(
                metrics.MetricsCallback(training.metrics_file, statistics.metrics, newest)
            )
        if training.tracking is not None:
            for callback in training.tracking(training.checkpoints.folder.name, statistics.metrics):
                self.add_callback(callback)

    def _get_train_sampler(self, train_dataset=None):
        if self.options.batching != "by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = self.train_dataset.lengths
        return LengthSampler(lengths, rows, self.args.data_seed, lambda: int(self.state.epoch))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of an optimiser step, without repeated rows, and their trained tokens."""
        size = self.args.train_batch_size
        rows = len(self.train_dataset)
        rows_of_batch = size * self.args.world_size  # of all processes
        rows_of_step = rows_of_batch * self.args.gradient_accumulation_steps
        step_of_epoch = self.state.global_step % math.ceil(rows / rows_of_step)
        begin = step_of_epoch * rows_of_step + self.args.process_index * size
        batches = without_repeats(epoch_iterator, rows, begin, rows_of_batch)
        batches, tokens = super().get_batch_samples(batches, num_batches, device)
        self.throughput.count(batches)
        numbers = [batch.pop("row") for batch in batches]
        for feature in self.features:
            feature.on_batches(batches, numbers)
        return batches, tokens

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        for feature in self.features:
            feature.on_pass(model, inputs)
        inputs = inputs | self.loss.options(inputs["labels"])
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for feature in self.features:
            feature.on_outputs(outputs, num_items_in_batch)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of the gradient. The Trainer also multiplies all gradients by 1 for it."""
        if grad_norm is not None or engines.shards_weights(self.options):
            return super()._get_grad_norm(model, grad_norm)
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def log(self, logs, start_time=None):
        if "loss" in logs:
            for feature in self.features:
                feature.on_loss(logs, self.state.global_step)
        super().log(logs, start_time)

    def evaluate(self, *_, **__):
        """Log the loss on the validation rows, and tell the callbacks."""
        step = self.state.global_step
        losses = self.training.losses
        if losses is not None and step == self.state.max_steps:
            loss = losses.measure(self.model, self.loss, self.eval_dataset)
        else:
            size = self.args.per_device_train_batch_size
            loss = validation_loss(self.model, self.loss, self.eval_dataset, self._make_batch, size)
        if not math.isfinite(loss):
            raise features.Diverged(f"step {step}: validation loss {loss}. Lower the learning rate")
        logs = {VALIDATION_LOSS: loss}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _make_batch(self, rows: list[dict]) -> dict:
        """The model's inputs, on its device, from some rows."""
        return self._prepare_inputs(self.data_collator(rows))


def training_arguments(
    options: TrainingConfig, seed: int, folder: str, steps: int, validates: bool
) -> TrainingArguments:
    """The arguments of transformers' Trainer for the options of a training.

    Keys of the same name are handed on as they are. None means the default, if not said here. By
    default no weight decays, and nothing is reported.

    folder: of the checkpoints.
    steps: that the optimiser takes.
    validates: whether there are validation rows.
    """
    names = {field.name for field in fields(TrainingArguments)}
    same = options.model_dump(include=names - {"max_grad_norm", "eval_steps"}, exclude_none=True)
    if options.lr_scheduler_type == "warmup_stable_decay":
        decay = max(round(DECAY_SHARE * steps), 1)
        same["lr_scheduler_kwargs"] = {"num_decay_steps": decay, "decay_type": "linear"}
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
