"""Where a step computes: the GPU that it was promised, and what it says of its device."""

from workflow_scripts.common.errors import UserError

# By a training's precision, and by torch's name of a dtype.
WEIGHTS = {
    "fp32": "fp32 weights",
    "bf16": "bf16 over fp32 weights",
    "bf16_pure": "bf16 weights",
    "torch.float32": "fp32 weights",
    "torch.bfloat16": "bf16 weights",
    "torch.float16": "fp16 weights",
}


def check_gpus(asked: int) -> None:
    """Raise UserError where a GPU is asked for and torch can use none."""
    if not asked:
        return
    import torch

    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no GPU that it can use"
    if not (torch.version.cuda or torch.version.hip):
        reason = f"the installed torch, {torch.__version__}, is built for the CPU alone"
    raise UserError(
        f"gpus = {asked}: {reason}. Install a torch for this GPU, or see what nvidia-smi and "
        "CUDA_VISIBLE_DEVICES say; gpus: 0 in the config computes on the CPU"
    )


def describe_device(device: str, precision: str, threads: int | None) -> str:
    """One line for a log: the device, and in what it computes.

    device: torch's name, such as "cpu" or "cuda:0". precision: a key of WEIGHTS.
    """
    import torch

    weights = WEIGHTS.get(precision, f"{precision} weights")
    if device.startswith("cuda"):
        return f"device {device} ({torch.cuda.get_device_name(device)}), {weights}"
    of_threads = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    return f"device {device}{of_threads}, {weights}"
