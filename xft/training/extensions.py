"""Builds DeepSpeed's extensions once for each environment, also after a killed build.

torch makes a file `lock` while it builds or loads an extension. A killed process leaves this file
behind, and all later ones would wait for ever. Here processes build and load in a folder of this
project, and each holds a lock that ends with its process. So a file `lock` that they find there was
left by a killed process.
"""

import fcntl
import hashlib
import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from xft.common.errors import UserError
from xft.common.progress import say


@cache
def builds() -> Path:
    """The folder of the builds, which contain the path of the environment.

    For another path torch builds again.
    """
    default = Path.home() / ".cache" / "torch_extensions"
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    name = f"torch-{version('torch')}_deepspeed-{version('deepspeed')}_{environment}"
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", default)) / "xft" / name


def load_extensions(offload: bool) -> None:
    """Build and load the extensions for ZeRO: its communication on a CPU, CPU Adam for `offload`.

    Raises UserError if the build fails.
    """
    names = [] if torch.cuda.is_available() else ["deepspeed_shm_comm"]
    names += ["cpu_adam"] if offload else []
    if not names:
        return
    builds().mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(builds())
    with (builds() / "building").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        for name in names:
            _load(name)


def _load(name: str) -> None:
    """Build and load one extension. DeepSpeed does not load it a second time."""
    for left in builds().rglob(f"{name}/lock"):
        left.unlink()
    if not list(builds().rglob(f"{name}.so")):
        say(f"compiling DeepSpeed's {name} into {builds()}. This takes a minute, only once")
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    try:
        ALL_OPS[name].load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(
            f"DeepSpeed's {name} could not be compiled: it needs ninja and a C++ compiler. Install "
            f"them, or choose launch = ddp. {error}"
        ) from None
