"""What the two training steps share: their flags, their data, their result."""

import argparse
import atexit
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from workflow_scripts import cli, configuration
from workflow_scripts.artifacts.artifact import Artifact
from workflow_scripts.artifacts.code import code_hash
from workflow_scripts.common.devices import check_gpus, describe_device
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.optional import require
from workflow_scripts.common.progress import say
from workflow_scripts.config.launch import check_devices, check_launch, precision_of
from workflow_scripts.data.templates import read_template
from workflow_scripts.training import launch
from workflow_scripts.training.checkpoints import Checkpoints, fingerprint

COMMON = ["seed", "threads", "trackers"]
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed")


@dataclass(frozen=True)
class DataInputs:
    """What a training reads besides its model.

    ids: for the manifest, the SHA-256 of the file of rows as "data", and the id of the "tokens".
    origins: for the recipe, the tokens or the hash of the rows.
    """

    ids: dict[str, str]
    origins: dict[str, Artifact | str]


@dataclass(frozen=True)
class TrainingOptions:
    """Checked flags of a training step, as the config's sections hold them.

    asked: the flags as they were given. training: what they come to on this machine.
    """

    asked: dict
    data: dict
    training: dict
    seed: int
    threads: int
    checkpoint_minutes: float
    trackers: list[str]

    @property
    def parameters(self) -> dict:
        """All that the trained weights depend on, apart from the inputs."""
        return {"seed": self.seed, "threads": self.threads, **self.data, **self.training}


def add_flags(parser: argparse.ArgumentParser, section: str) -> None:
    """Flags of data, metrics and training; `section` is where the config holds the latter."""
    cli.add_path(
        parser,
        "--data",
        "FILE_OR_DIR",
        "The rows, or tokens made of them by python -m workflow_scripts.tokens.",
    )
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="Write each step's loss there, as JSONL."
    )
    parser.add_argument(
        "--tracker-dir",
        type=Path,
        metavar="DIR",
        help="Where trackers write. Default: the folder metrics beside --out.",
    )
    cli.add_options(parser, None, [*COMMON, "gpus"])
    cli.add_options(parser, "data", configuration.TOKENS_OPTIONS)
    parser.set_defaults(**dict.fromkeys(configuration.TOKENS_OPTIONS))  # tokens have their own
    unrelated = configuration.TRAINING_UNRELATED
    cli.add_options(parser, section, [*training_keys(section), *unrelated])


def parse_flags(args: argparse.Namespace, section: str) -> TrainingOptions:
    """The checked values of the flags of `add_flags`.

    Raises UserError, also where an optimiser or a tracker is not installed, or a GPU not there.
    """
    common = cli.options(args, None, COMMON)
    check_gpus(cli.options(args, None, ["gpus"])["gpus"])
    training = cli.options(args, section, training_keys(section))
    check_launch(training, "command line")
    configuration.check_warmup(training, training["max_steps"], "command line")
    asked = training | common
    training |= {"precision": precision_of(training, _has_bf16())}
    data = _data_options(args)
    options = TrainingOptions(
        asked=asked | data,
        data=data,
        training=launch.adopt_world(training, os.environ),
        **cli.options(args, section, configuration.TRAINING_UNRELATED),
        **common,
    )
    for option in (options.training["optimizer"], *options.trackers):
        require(option)
    return options


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _data_options(args: argparse.Namespace) -> dict:
    """The options of the tokens, of the flags or of the tokens' own manifest."""
    names = configuration.TOKENS_OPTIONS
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.data.is_dir():
        from workflow_scripts.data.tokens_artifact import read_options

        if given:
            raise UserError(
                f"{args.data} holds tokens, which have their own {', '.join(given)}. Leave the "
                "flags out, or give the file of rows"
            )
        return read_options(args.data)
    known = configuration.properties("data")
    options = {name: known[name].get("default") for name in names} | given
    configuration.check_section("data", options, "command line")
    return options | {"template": read_template(options["template"])}


def started_processes(step: str, argv: list[str] | None, options: TrainingOptions) -> bool:
    """Run the step in processes of its own, to their end, where `launch` asks for it.

    False where this process is the one to train. Raises UserError.
    """
    if options.training["launch"] == "single":
        return False
    import torch

    check_devices(options.training, torch.cuda.device_count(), "command line")
    if launch.is_needed(options.training):
        launch.start(step, argv, options.training, options.threads)
        return True
    return False


def training_keys(section: str) -> list[str]:
    """The keys of a config section on which the result of a training depends."""
    others = configuration.MIXING_SHAPE + configuration.TRAINING_UNRELATED
    return [key for key in configuration.properties(section) if key not in others]


def prepare_process(options: TrainingOptions) -> None:
    """Fix what the result depends on: seed and threads. Say where it computes, and how.

    transformers' loading bars are silenced.
    The group of processes, where there is one, is left at the end: its threads would abort it.
    """
    import torch
    from transformers import logging, set_seed

    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    logging.disable_progress_bar()
    if is_main_process():
        say(describe_device(device(), options.training["precision"], options.threads))
    atexit.register(leave_group)


def leave_group() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def open_tracking(step: str, args: argparse.Namespace, options: TrainingOptions):
    """Where the metrics of a training are reported besides, if anywhere."""
    if not options.trackers:
        return None
    from workflow_scripts.training.trackers import Tracking

    folder = args.tracker_dir or args.out.parent / "metrics"
    run = step if args.out.name == step else f"{step}/{args.out.name}"
    return Tracking(options.trackers, folder, run)


def open_checkpoints(
    step: str, out: Path, options: TrainingOptions, parameters: dict, inputs: dict[str, str]
) -> Checkpoints:
    """The checkpoints of a training, which no other one shares.

    parameters, inputs: as in the manifest of the artifact that it makes.
    """
    key = fingerprint(
        parameters=parameters,
        inputs=inputs,
        code=code_hash(step),
        packages={name: version(name) for name in PACKAGES},
        processes=processes(),
    )
    return Checkpoints(out, key, 60 * options.checkpoint_minutes, is_main_process())


def verifies_fully(args: argparse.Namespace) -> bool:
    """Whether this process hashes the inputs whole: one of them does, where it is asked for."""
    return args.verify == "full" and is_main_process()


def is_main_process() -> bool:
    """Whether this process, of those that a launcher started, speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes a launcher started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def weight_dtype(options: TrainingOptions):
    """The dtype of the weights that a training computes with and changes."""
    import torch

    return torch.bfloat16 if options.training["precision"] == "bf16_pure" else torch.float32


def device() -> str:
    """Where this process trains: its own GPU, or the CPU where there is none."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def prepare_examples(source: Path, model_folder: Path, options: TrainingOptions, full: bool):
    """A model's tokenizer, the examples to train on, those held out, and what they were made from.

    source: a file of rows, or a folder of tokens (`full`: its bytes are hashed).
    Raises UserError, also where options need rows held out and there are none.
    """
    from workflow_scripts.data.preparation import prepare, summary
    from workflow_scripts.data.tokenizers import load_tokenizer
    from workflow_scripts.data.tokens_artifact import open_tokens

    tokenizer = load_tokenizer(model_folder)
    if source.is_dir():
        opened = open_tokens(source, model_folder, full)
        tokens = opened.tokens
        inputs = DataInputs(opened.inputs, {"tokens": opened.artifact})
        text = f"{len(tokens.training)} rows of {source}"
    else:
        tokens, report = prepare(source, tokenizer, options.data)
        ids = {"data": report["data_sha256"]}
        inputs = DataInputs(ids, ids)
        text = summary(source, report)
    configuration.check_validation(options.training, len(tokens.validation), "command line")
    if is_main_process():
        say(f"{text}; {_global_batch(options.training)}")
    return tokenizer, tokens.training, tokens.validation, inputs


def _global_batch(training: dict) -> str:
    device, accumulation = (
        training[key] for key in ("per_device_batch_size", "gradient_accumulation_steps")
    )
    return (
        f"global batch {device * accumulation * processes()} = "
        f"{device} a device x {accumulation} accumulated x {processes()} processes"
    )
