"""The training loop of steps 2 and 6: transformers' Trainer with our options and metrics."""

import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from workflow_scripts.data.instructions import IGNORED
from workflow_scripts.progress import progress

OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor"}


def train(
    model,
    examples: list[dict],
    tokenizer,
    options: dict,
    seed: int,
    metrics_file: Path | None = None,
    extra_metrics: Callable[[], dict] = dict,
    build_optimizer: Callable | None = None,
) -> None:
    """Train `model` in place on tokenised `examples`.

    `options` is the config's section `training` or the like of it in `mixing`. Each step's loss,
    learning rate and `extra_metrics()` become a line of `metrics_file`. Where what learns is not in
    the model, `build_optimizer(optimizer_class, options, max_grad_norm)` makes its optimiser, which
    clips its own gradients.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it chose it
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(options, seed, folder)
        optimizer = None
        if build_optimizer is not None:
            optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
            optimizer = build_optimizer(optimizer_class, settings, options["max_grad_norm"])
            arguments.max_grad_norm = 0.0
        callbacks = []
        if arguments.process_index == 0:  # one process speaks for all
            callbacks = [ProgressCallback(), MetricsCallback(metrics_file, extra_metrics)]
        trainer = Trainer(
            model=model,
            args=arguments,
            optimizers=(optimizer, None),
            train_dataset=examples,
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        if build_optimizer is not None:  # DDP refuses a model in which nothing learns
            prepare_model = trainer.accelerator.prepare_model
            trainer.accelerator.prepare_model = partial(prepare_model, evaluation_mode=True)
        trainer.train()


def _arguments(options: dict, seed: int, folder: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=options["epochs"],
        max_steps=options["max_steps"] or -1,
        per_device_train_batch_size=options["per_device_batch_size"],
        gradient_accumulation_steps=options["gradient_accumulation_steps"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type=options["scheduler"],
        warmup_steps=options["warmup_steps"],
        optim=OPTIMIZERS[options["optimizer"]],
        weight_decay=0.0,
        max_grad_norm=options["max_grad_norm"] or 0.0,
        bf16=options["precision"] == "bf16",
        seed=seed,
        data_seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    # A process drives one GPU. With more in sight the Trainer would split batches by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class ProgressCallback(TrainerCallback):
    """A progress bar over the optimiser steps, with the last loss."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress(desc="train", total=state.max_steps, unit="step")

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class MetricsCallback(TrainerCallback):
    """A line of JSON for each logged step."""

    def __init__(self, path: Path | None, extra: Callable[[], dict]):
        self.path = path
        self.extra = extra
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.path is None or "loss" not in logs:
            return
        line = {"step": state.global_step, **logs, **self.extra()}
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)
