"""The TrainingArguments of a training."""

import sys
from dataclasses import fields

import torch
from transformers import TrainingArguments

from xft.config.training import TrainingConfig
from xft.training.engines import engine_arguments

DECAY_SHARE = 0.1  # of the steps of warmup_stable_decay


def training_arguments(
    options: TrainingConfig, seed: int, folder: str, steps: int, validates: bool
) -> TrainingArguments:
    """Keys of the same name are handed on as they are. None means the default, if not said here.

    By default no weight decays, and nothing is reported.

    folder: of the checkpoints.
    steps: that the optimiser takes.
    validates: whether there are validation rows.
    """
    known = {field.name for field in fields(TrainingArguments)}
    same = options.model_dump(include=known - {"max_grad_norm", "eval_steps"}, exclude_none=True)
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
        **engine_arguments(options),
    )
    # A process uses one GPU. If it sees more, the Trainer would split batches with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
