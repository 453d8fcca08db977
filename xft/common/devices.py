"""Gives a step its GPUs, and describes its device in a line for the log."""

import os
from pathlib import Path

from xft.common.errors import UserError, counted
from xft.common.gpus import take_gpus

CPU_INFO = Path("/proc/cpuinfo")  # on Linux


def claim_gpus(asked: int) -> None:
    """Take so many GPUs, as `take_gpus` does. A process of torchrun uses those that torchrun has.

    Raises UserError if `asked` is not 0 and torch can use no GPU.
    """
    if not asked:
        return
    if "RANK" not in os.environ:
        take_gpus(asked)
    check_gpus(asked)


def check_gpus(asked: int) -> None:
    """Raise UserError if torch can use no GPU. asked: as in the config."""
    import torch

    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no GPU that it can use"
    if not (torch.version.cuda or torch.version.hip):
        reason = f"the installed torch, {torch.__version__}, is built for the CPU alone"
    raise UserError(
        f"gpus = {asked}: {reason}. Install a torch for this GPU, check nvidia-smi and "
        "CUDA_VISIBLE_DEVICES, or compute on the CPU with gpus: 0 in the config"
    )


def describe_device(device: str, precision: str, threads: int | None) -> str:
    """One line for a log: the device, its threads, and the dtype of the weights.

    device: torch's name, such as "cpu" or "cuda:0".
    precision: of a training, or torch's dtype.
    """
    import torch

    dtype = "bf16 over fp32" if precision == "bf16" else precision.removeprefix("torch.")
    dtype = dtype.replace("bfloat", "bf").replace("float", "fp")
    if device.startswith("cuda"):
        return f"device {device} ({torch.cuda.get_device_name(device)}), {dtype} weights"
    of_threads = f", {counted(threads, 'thread')}" if threads else ""
    return f"device {device}{of_threads}, {dtype} weights"


def computed_on(model) -> dict[str, str]:
    """The device and the dtype of a loaded model, for its results."""
    return {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}


def advice_on_nan() -> str:
    """The end of a message about NaN: what to try on a processor with AMX; nothing on others."""
    if not CPU_INFO.exists() or "amx_bf16" not in CPU_INFO.read_text():
        return ""
    return (
        ". If it is another step each time, in bf16 on the CPU, set "
        "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (docs/troubleshooting.md)"
    )
