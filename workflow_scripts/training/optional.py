"""Packages that a training needs only where its options ask for them."""

import sys
from importlib.metadata import PackageNotFoundError, version

from workflow_scripts.errors import UserError

# By option: packages of which one is enough, the one to install first.
PACKAGES = {
    "adamw_8bit": ("bitsandbytes",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny", "mlflow"),
}


def require(option: str) -> None:
    """Raise UserError where an optimiser or a tracker needs a package that is not installed."""
    names = PACKAGES.get(option, ())
    if names and not any(map(_is_installed, names)):
        raise UserError(
            f"{option} needs the package {names[0]}, which is not installed. Install it: "
            f"{sys.executable} -m pip install {names[0]}"
        )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
