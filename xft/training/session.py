"""A training step in this process: its seed, examples, checkpoints and metrics."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from xft.artifacts.manifest import DIVERGED, hash_program, json_sha256, manifest_path
from xft.common.errors import UserError, counted
from xft.common.gpus import describe_device
from xft.common.optional import is_installed
from xft.common.progress import job_name
from xft.common.system import torchrun
from xft.common.user_code import UserCode, codes_in, errors_of
from xft.config.reading import validated
from xft.config.section import unrecorded
from xft.config.sections import RunConfig, TokensConfig
from xft.config.training import CALLBACK, TrainingConfig, fault_of_devices, precision_of
from xft.data.prompt_templates import with_template_read
from xft.training.ranks import device, is_main_process, say_once

PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft")


@dataclass(frozen=True)
class TrainingRequest:
    """The options of a training step.

    data: a file of rows, or a folder of tokens.
    out: the place of the artifact.
    metrics: a file for each step's loss.
    tracker_dir: the folder for the trackers.
    full: compare the hashes of all input files with their manifests.
    options: with the values for this machine.
    tokens: how the rows become tokens, or became them.
    losses: a file for the artifact's validation losses.
    flops_ratio: None, or the factor of the optimiser steps with which the training takes as many
    FLOPs as another one.
    diverged: a file that is written if the training diverges, with the cause.
    """

    step: str
    data: Path
    out: Path
    metrics: Path | None
    tracker_dir: Path
    full: bool
    options: TrainingConfig
    tokens: TokensConfig
    run: RunConfig
    losses: Path | None = None
    flops_ratio: float | None = None
    diverged: Path | None = None

    @property
    def parameters(self) -> dict:
        """Everything that the trained weights depend on, except for the inputs."""
        training = self.options.model_dump(exclude=set(unrecorded(type(self.options))))
        training["callbacks"] = [code.label for code in codes_in(self.options.callbacks)]
        if self.flops_ratio is not None:
            training["flops_ratio"] = self.flops_ratio
        run = self.run.model_dump(include={"seed", "threads"})
        return run | self.tokens.stated() | training


class Session:
    """A training step's process, with the examples of its request.

    request: with the steps that follow from its `flops_ratio`.
    tokenizer: the model's.
    examples, validation: tokenised rows, to train on and held out.
    ids: of the rows ("data"), of the tokens, and of the files of callbacks, for the manifest.
    callbacks: of the user's.
    datasets: as `datasets_of` gives them.
    """

    def __init__(self, request: TrainingRequest, model_folder: Path):
        """Seed this process and read the examples. Raises UserError."""
        self.request = request
        self._prepare_process()
        self.callbacks = [made_callback(code) for code in codes_in(request.options.callbacks)]
        self._read_examples(model_folder)

    def _prepare_process(self) -> None:
        """Set seed and threads, because the result depends on them, and print the device.

        The process leaves its process group at its end.
        """
        import torch
        from transformers import logging, set_seed

        run = self.request.run
        precision = self.request.options.precision
        torch.set_num_threads(run.threads)
        set_seed(run.seed)
        logging.disable_progress_bar()
        say_once(describe_device(device(), precision, run.threads))
        atexit.register(leave_group)

    def _read_examples(self, model_folder: Path) -> None:
        from xft.data.preparation import prepare, summary
        from xft.data.tokenized_rows import datasets_of, open_tokens
        from xft.data.tokenizers import load_tokenizer

        request = self.request
        self.datasets = datasets_of([request.data])
        self.tokenizer = load_tokenizer(model_folder)
        if request.data.is_dir():
            tokens, self.ids = open_tokens(request.data, model_folder, request.full)
            text = counted(len(tokens.training), "row")
        else:
            tokens, report = prepare([request.data], self.tokenizer, request.tokens)
            self.ids = {"data": report["data_sha256"]}
            text = summary([request.data], report)
        for number, code in enumerate(codes_in(request.options.callbacks), 1):
            self.ids[f"callback {number}"] = hash_program(code.file)
        self.examples = tokens.training
        self.validation = tokens.validation
        fault = request.options.fault_of_validation(len(self.validation))
        if fault:
            raise UserError(fault)
        text = f"{text}; global batch {request.options.global_batch}"
        ratio = request.flops_ratio
        if ratio is not None:
            options = request.options.with_steps_times(ratio, len(self.examples))
            self.request = replace(request, options=options)
            text += f"; equal FLOPs: {ratio:.4g} times the optimiser steps, {options.max_steps}"
        say_once(text)

    @property
    def weight_dtype(self):
        """The dtype of the weights in memory."""
        import torch

        return torch.bfloat16 if self.request.options.precision == "bf16_pure" else torch.float32

    @contextmanager
    def trained(self, model, parameters: dict, inputs: dict, **features) -> Iterator[dict]:
        """Train a model from its newest checkpoint on. The checkpoints are removed after the block.

        parameters, inputs: as in the manifest of the artifact that the block writes.
        features: mixing and losses, as `Training` has them.

        Until the block ends, SIGTERM and Ctrl-C do not end the process: a checkpoint is written
        first or, after the last step, the artifact.

        Yields the learned tensors by name in the main process, and nothing in the others. Raises
        UserError.
        """
        from xft.training.features import StopRequest
        from xft.training.saving import Checkpoints
        from xft.training.trainer import Training, train

        request = self.request
        packages = {name: version(name) for name in PACKAGES if is_installed(name)}
        known = {"parameters": parameters, "inputs": inputs, "packages": packages}
        seconds = 60 * request.options.save_minutes
        checkpoints = Checkpoints(request.out, json_sha256(known), seconds)
        claim = checkpoints.claimed() if is_main_process() else nullcontext()
        with StopRequest() as stop, claim:
            training = Training(
                model=model,
                examples=self.examples,
                validation=self.validation,
                tokenizer=self.tokenizer,
                options=request.options,
                seed=request.run.seed,
                checkpoints=checkpoints,
                metrics_file=request.metrics,
                tracking=self._tracking(),
                callbacks=self.callbacks,
                stop=stop,
                **features,
            )
            with errors_of(codes_in(request.options.callbacks)), self._divergence_told():
                learned = train(training)
            yield learned

    @contextmanager
    def _divergence_told(self) -> Iterator[None]:
        """Write the file of a training that diverges within the block."""
        from xft.training.features import Diverged

        file = self.request.diverged
        if file and is_main_process():
            manifest_path(file).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        try:
            yield
        except Diverged as error:
            if file and is_main_process():
                DIVERGED.write(file, {"cause": str(error)})
            raise

    def _tracking(self):
        """The `tracker_callbacks` of this step; None without any."""
        request = self.request
        if not request.run.report_to:
            return None
        from xft.training.metrics import tracker_callbacks

        step = request.step
        name_by_hand = step if request.out.name == step else f"{step}/{request.out.name}"
        training = job_name() or name_by_hand
        return partial(tracker_callbacks, request.run.report_to, request.tracker_dir, training)


def tokens_options(data: Path, given: dict[str, object]) -> TokensConfig:
    """The options of the tokens, from the given flags or from the tokens' own manifest."""
    if not data.is_dir():
        return with_template_read(validated(TokensConfig, given, "command line"))
    from xft.data.tokenized_rows import read_options

    if given:
        raise UserError(
            f"{data} holds tokens, which were made with a fixed {', '.join(given)}. Leave out "
            "these flags, or name the file of rows in --data"
        )
    return read_options(data)


def on_this_machine(options: TrainingConfig, step: str) -> TrainingConfig:
    """The options with the precision that this training has.

    Raises UserError if a GPU is missing, or if torchrun has not started as many processes as the
    options ask for.
    """
    import torch

    fault = fault_of_devices(options, torch.cuda.device_count())
    if fault:
        raise UserError(fault)
    if options.launch != "single" and "RANK" not in os.environ:
        command = torchrun(options.processes, options.nodes)
        raise UserError(
            f"launch = {options.launch}, but torchrun has not started this process. Begin the "
            f"command with: {command} -m workflow_scripts.{step}"
        )
    launched = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1
    if launched != options.world_size:
        raise UserError(
            f"launch = {options.launch}: {launched} processes were launched, but processes x nodes "
            f"is {options.world_size}. Make the two equal"
        )
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return options.model_copy(update={"precision": precision_of(options, has_bf16)})


def made_callback(code: UserCode):
    """A callback of the user's. Raises UserError if it is no TrainerCallback."""
    from transformers import TrainerCallback

    with errors_of([code]):
        callback = code.load(CALLBACK)()
    if not isinstance(callback, TrainerCallback):
        raise UserError(f"{code.file}: {code.name} is no transformers.TrainerCallback")
    return callback


def leave_group() -> None:
    """Leave the process group, if there is one."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
