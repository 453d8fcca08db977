"""DeepSpeed's compiled extensions: built once for each version, never waited for in vain.

torch leaves a file `lock` where a build was killed, on which every later one would wait for ever.
Here builds happen in a folder of our own, under a lock that ends with its process.
"""

import fcntl
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from workflow_scripts.errors import UserError
from workflow_scripts.progress import say

BUILDS = (
    Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    / "xft"
    / f"torch-{version('torch')}_deepspeed-{version('deepspeed')}"
)


def build_extensions(offload: bool) -> None:
    """Build what ZeRO needs: on a CPU its communication, for `offload` its Adam on the CPU.

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
            if not _is_built(name):
                _build(name)


def _is_built(name: str) -> bool:
    libraries = list(BUILDS.rglob(f"{name}.so"))
    return bool(libraries) and not any(file.with_name("lock").exists() for file in libraries)


def _build(name: str) -> None:
    for tool in ("ninja", os.environ.get("CXX", "c++")):
        if shutil.which(tool) is None:
            raise UserError(
                f"DeepSpeed's {name} must be compiled, which needs {tool}. Install it, or choose "
                "launch = ddp"
            )
    for stale in BUILDS.rglob(f"{name}/lock"):
        stale.unlink()
    say(f"compiling DeepSpeed's {name} into {BUILDS}: a minute, once")
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    try:
        ALL_OPS[name].load(verbose=False)
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(f"DeepSpeed's {name} could not be compiled: {error}") from None
