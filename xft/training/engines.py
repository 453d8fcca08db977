"""The engines below the Trainer: their settings and their weights.

The engines are DistributedDataParallel, FSDP2 and DeepSpeed's ZeRO.
"""

import os
import warnings
from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor, nn

from xft.config.training import SHARDED, ZERO_STAGES, TrainingConfig
from xft.training.extensions import load_extensions

REDUCE_BUCKET = 50_000_000  # gradients that ZeRO averages together


def shards_weights(options: TrainingConfig) -> bool:
    """Whether the engine saves and loads the weights itself, with the optimiser's state."""
    return options.launch in SHARDED


def prepare_engine(options: TrainingConfig) -> None:
    """Set up this process for the engine, before the TrainingArguments are made."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns about its choice
    if options.launch in ZERO_STAGES:
        load_extensions(offload=options.offload_optimizer)
        _read_by_weights_only_reader()
        warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning, "torch.distributed")
    if options.launch == "fsdp":  # accelerate's backend then takes CPU tensors too
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


def engine_arguments(options: TrainingConfig) -> dict:
    """The TrainingArguments that choose the engine."""
    launch = options.launch
    if launch == "fsdp":
        config = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_offload": options.offload_optimizer,
        }
        return {"fsdp": True, "fsdp_config": config}
    if launch in ZERO_STAGES:
        config = _deepspeed_config(ZERO_STAGES[launch], options.offload_optimizer)
        return {"deepspeed": config, "log_level": "error", "log_level_replica": "error"}
    return {}


def _deepspeed_config(stage: int, offload: bool) -> dict:
    zero = {"stage": stage, "reduce_bucket_size": REDUCE_BUCKET}
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": zero,
    }


def inexact_in_bf16(model: nn.Module, options: TrainingConfig) -> dict[str, Tensor]:
    """Copies, by name, of the parameters that ZeRO would round to bf16 for its fp32 masters.

    Empty if all weights that learn are exact in bf16. Frozen ones have no masters.
    """
    if options.launch not in ZERO_STAGES or options.precision != "bf16":
        return {}
    return {
        name: parameter.detach().clone()
        for name, parameter in learned_parameters(model)
        if not torch.equal(parameter, parameter.bfloat16().float())
    }


def set_masters(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Set the fp32 masters of a model that ZeRO has prepared. All processes call this."""
    if not values:
        return
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    for name, parameter in learned_parameters(model):
        if name not in values:
            continue
        value = values[name].to(parameter.device)
        if hasattr(parameter, "ds_tensor"):  # stage 3: equal parts, the last one padded
            size = parameter.ds_tensor.numel()
            padded = nn.functional.pad(value.flatten(), (0, size * world - value.numel()))
            safe_set_local_fp32_param(parameter, padded.narrow(0, size * rank, size))
        else:
            safe_set_full_fp32_param(parameter, value)


def by_all_names(module: nn.Module, learned: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values of a module's parameters under all names that they have.

    learned: by the names of `learned_parameters`, which names tied parameters once.
    """
    names = {parameter: name for name, parameter in learned_parameters(module)}
    tied = module.named_parameters(remove_duplicate=False)
    return {name: learned[names[one]] for name, one in tied if one in names}


@torch.no_grad()
def whole_parameters(module: nn.Module, options: TrainingConfig) -> Iterator[tuple[str, Tensor]]:
    """The whole parameters that learn, one at a time, by name: the fp32 masters if there are any.

    All processes must take them all.
    """
    whole = Tensor.detach
    if options.launch in ZERO_STAGES:
        from deepspeed.utils import safe_get_full_fp32_param as whole
    if options.launch == "fsdp":
        from torch.distributed.tensor import DTensor

        _shard_again(module)
        whole = DTensor.full_tensor
    for name, parameter in learned_parameters(module):
        yield name, whole(parameter)


def _shard_again(module: nn.Module) -> None:
    """Let FSDP shard what a forward pass without a backward pass left whole."""
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def learned_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name."""
    return [(name, one) for name, one in module.named_parameters() if one.requires_grad]


def _read_by_weights_only_reader() -> None:
    """Make torch read DeepSpeed's checkpoints with its weights-only reader, which runs no code.

    DeepSpeed itself asks torch to unpickle them, and has no setting against this.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])
