"""DeepSpeed's compiled extensions. Each environment builds them once and waits for no killed build.

torch makes a file `lock` while it builds or loads one. A process that is killed leaves it, and
every later one would wait for ever. Here both happen in a folder of our own, under a lock that ends
with its process: a file `lock` that is there is left from a killed one.
"""

import fcntl
import hashlib
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import say

# Builds name the environment's folder: with another, torch builds again.
ENVIRONMENT = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
BUILDS = (
    Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    / "xft"
    / f"torch-{version('torch')}_deepspeed-{version('deepspeed')}_{ENVIRONMENT}"
)


def load_extensions(offload: bool) -> None:
    """Build and load what ZeRO needs: on a CPU its communication, for `offload` its CPU Adam.

    Raises UserError where a tool is missing or the build fails.
    """
    names = [] if torch.cuda.is_available() else ["deepspeed_shm_comm"]
    names += ["cpu_adam"] if offload else []
    if not names:
        return
    os.environ["TORCH_EXTENSIONS_DIR"] = str(BUILDS)
    BUILDS.mkdir(parents=True, exist_ok=True)
    with (BUILDS / "building").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        for name in names:
            _load(name)


def _load(name: str) -> None:
    """DeepSpeed keeps what it has loaded: it does not load it again."""
    for tool in ("ninja", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            raise UserError(
                f"DeepSpeed's {name} must be compiled, which needs {tool}. Install it, or choose "
                "launch = ddp"
            )
    for left in BUILDS.rglob(f"{name}/lock"):
        left.unlink()
    if not list(BUILDS.rglob(f"{name}.so")):
        say(f"compiling DeepSpeed's {name} into {BUILDS}: a minute, once")
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    try:
        ALL_OPS[name].load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(f"DeepSpeed's {name} could not be compiled: {error}") from None
