"""How a training is launched: the strategies, and which settings go together with each."""

from workflow_scripts.common.errors import UserError

ZERO_STAGES = {"zero2": 2, "zero3": 3}
# Those that shard the optimiser's state. They work alike, whatever the shards are.
SHARDED_OPTIMIZERS = ("adamw",)


def world_size(settings: dict) -> int:
    """How many processes train together. settings: a config section with launch options."""
    return settings["processes"] * settings["nodes"]


def precision_of(settings: dict, has_bf16: bool) -> str:
    """The precision of a config section. has_bf16: whether there is a GPU that computes in bf16."""
    automatic = "bf16" if has_bf16 else "fp32"
    return automatic if settings["precision"] == "auto" else settings["precision"]


def check_launch(settings: dict, where: str) -> None:
    """Raise UserError where settings of a config section exclude each other."""
    launch = settings["launch"]
    if fault := _fault_of_numbers(settings) or fault_of_shards(settings):
        raise UserError(f"{where}: launch = {launch}: {fault}")


def _fault_of_numbers(settings: dict) -> str | None:
    launch, total = settings["launch"], world_size(settings)
    if launch == "single" and total > 1:
        return (
            f"it is one process, but processes = {settings['processes']} and "
            f"nodes = {settings['nodes']}. Choose another launch, or 1 for both"
        )
    if launch in ("ddp", "fsdp") and total == 1:
        return "it needs at least two processes. Set processes, or launch = single"
    return None


def fault_of_shards(settings: dict) -> str | None:
    """Why a launch excludes the optimiser, the precision or the offload; None where it does not."""
    launch, optimizer = settings["launch"], settings["optimizer"]
    is_sharded = launch == "fsdp" or launch in ZERO_STAGES
    if settings.get("offload_optimizer") and not is_sharded:
        return "offload_optimizer goes with zero2, zero3 and fsdp only"
    if is_sharded and optimizer not in SHARDED_OPTIMIZERS:
        reason = (
            "fails on FSDP's shards"
            if launch == "fsdp"
            else "would work on flat shards, without rows and columns: it is another optimiser then"
        )
        return f"optimizer = {optimizer} {reason}. Choose {' or '.join(SHARDED_OPTIMIZERS)}, or ddp"
    if launch in ZERO_STAGES and settings["precision"] == "bf16_pure":
        return (
            "precision = bf16_pure is not what DeepSpeed does: it keeps fp32 master weights. "
            "Choose bf16"
        )
    return None


def check_devices(settings: dict, gpus: int, where: str) -> None:
    """Raise UserError where this machine has too few GPUs. None at all is right for a CPU."""
    launch, processes = settings["launch"], settings["processes"]
    if launch == "fsdp" and gpus == 0:
        raise UserError(
            f"{where}: launch = fsdp: it needs GPUs, and there are none. On a CPU accelerate would "
            "train by plain DDP instead without a word. Choose ddp, zero2 or zero3"
        )
    if gpus and processes > gpus:
        raise UserError(
            f"{where}: processes = {processes}: there are {gpus} GPUs, and each process needs one"
        )
