"""Runs steps and tools, and checks snakemake's words: a mistake ends the process in one message."""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from xft.common import progress
from xft.common.errors import UserError
from xft.common.file_access import explain
from xft.common.foreign_text import escape_writes, printable
from xft.common.gpus import note_peaks
from xft.common.system import reuse_freed_memory
from xft.config.reading import read_config
from xft.config.steps import TRAINING_SECTIONS

ENVIRONMENT = {
    # Threads that wait in a loop for the next operation stall each other on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    # How many bf16 kernels oneDNN and torch keep on a CPU. They make one for each new number of
    # tokens of an expert. The default of 1024 takes up to 570 MB, and saves at most 6% of the time
    # (docs/planning.md).
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
# What torchrun says of processes that end: its log, and its own stack trace, which comes last.
TORCHRUN = re.compile(
    r"^[WE]\d{4} \S+ \d+ .*torch/distributed/.*\n|^terminate called .*\n"
    r'|^Traceback .*\n(?:  .*\n)+?  File ".*torch/distributed/(?:run|elastic/agent)(?s:.*)',
    re.MULTILINE,
)

# What CUDA says of a full GPU where torch's allocator is not asked: at its start, cuBLAS, and NCCL.
FULL = re.compile(
    r"CUDA error: (?:out of memory|CUBLAS_STATUS_ALLOC_FAILED)"
    r"|Cuda failure (?:\d+ )?'out of memory'"
)


def run(step: str, main: Callable[[list[str] | None], None]) -> None:
    """Run a step's main. A user's mistake ends in one message and exit status 1."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A user's code in a job may load models, too. No digest says which kernels of the hub it took.
    os.environ["USE_HUB_KERNELS"] = "NO"
    reuse_freed_memory()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may not be valid text
    escape_writes(sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # peft imports bitsandbytes if it is installed, which warns of kernels that no step uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    progress.name_job(step)
    try:
        main(None)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError, RuntimeError) as error:
        message = explain(error) or full_memory(step, error)
        if message is None:
            raise
        progress.close_bars()  # the message comes last
        sys.exit(f"{step}: error: {printable(message)}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        note_peaks()


def full_memory(step: str, error: Exception) -> str | None:
    """The message for an error that a GPU has no memory left; None for other errors."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(error, torch.OutOfMemoryError):
        said = str(error).partition("  See documentation")[0]
    elif found := FULL.search(str(error)):
        said = found[0]
    else:
        return None
    section = TRAINING_SECTIONS.get(step)
    if section is not None:
        advice = (
            f"Lower {section}.per_device_train_batch_size and raise "
            f"{section}.gradient_accumulation_steps by the same factor, or set {section}.precision:"
            f" bf16_pure or {section}.activation_checkpointing: true. "
            "`xft plan --config FILE --details` prints the changes that make it fit"
        )
    elif step == "eval":
        advice = (
            "Lower evaluation.batch_size. If the weights alone do not fit, take a GPU with more "
            "memory or set evaluation.precision: bf16. What is written so far is kept"
        )
    else:
        advice = (
            "Take a GPU with more memory, or compute on the CPU: gpus: 0 in the config, and "
            "CUDA_VISIBLE_DEVICES= before the command"
        )
    return f"the memory of the GPU is full. {advice}. nvidia-smi shows who else uses it. ({said})"


def without_torchrun(log: str) -> str:
    """The log of a training without what torchrun adds to what its processes say."""
    return TORCHRUN.sub("", log)


def failure(log: str) -> str | None:
    """The error message at the end of a step's log; None if there is no such message."""
    log = without_torchrun(log)
    message = re.search(r"^\w+: error: (.*)", log, re.MULTILINE | re.DOTALL)
    if message is None:
        return None
    return message[1].rstrip()


def check_config_files() -> None:
    """End the process with one message if the words after --configfile or --config cannot be read.

    Both options take all words that follow.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    given, _ = parser.parse_known_args()
    files = [Path(word) for word in given.configfile]
    try:
        for file in files:
            if file != files[0] and (file.is_dir() or not file.exists()):
                raise UserError(
                    f"--configfile: there is no file {file}. All words after --configfile are "
                    "files. Write the names of results before it"
                )
            read_config(file)
        for word in given.config:
            _check_setting(word)
    except UserError as error:
        sys.exit(str(error))


def _check_setting(word: str) -> None:
    """Raise UserError if a word after --config is no KEY=VALUE."""
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(
            f"--config {word}: there is no =. All words after --config are KEY=VALUE, in quotes "
            "where they hold blanks. Write the names of results before it"
        )
    section, dot, key = name.partition(".")
    if dot:
        raise UserError(f"--config {word}: write --config '{section}={{{key}: {value}}}'")
