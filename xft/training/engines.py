"""The engines below the Trainer: their settings and their weights.

The engines are DistributedDataParallel, FSDP2 and DeepSpeed's ZeRO. DeepSpeed's extensions are
built once for each environment, also after a killed build.
"""

import fcntl
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from transformers import TrainerCallback

from xft.common.errors import UserError
from xft.common.json_files import read_json
from xft.common.progress import say
from xft.config.training import SHARDED, ZERO_STAGES, TrainingConfig

SETTINGS = Path(__file__).parent / "settings"  # of accelerate and of DeepSpeed, by launch


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
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"


def engine_arguments(options: TrainingConfig) -> dict:
    """The TrainingArguments that choose the engine."""
    if not shards_weights(options):
        return {}
    config = read_json(SETTINGS / f"{options.launch}.json")
    if options.launch == "fsdp":
        config["cpu_offload"] = options.offload_optimizer
        return {"fsdp": True, "fsdp_config": config}
    if options.offload_optimizer:
        offload = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_optimization"]["offload_optimizer"] = offload
    return {"deepspeed": config, "log_level": "error", "log_level_replica": "error"}


class MastersCallback(TrainerCallback):
    """Gives ZeRO's fp32 masters the weights at the start, which it would round to bf16.

    values: copies, by name, of the weights that learn and are inexact in bf16.
    """

    def __init__(self, model: nn.Module, options: TrainingConfig):
        self.values: dict[str, Tensor] = {}
        if options.launch in ZERO_STAGES and options.precision == "bf16":
            self.values = {
                name: parameter.detach().clone()
                for name, parameter in learned_parameters(model)
                if not torch.equal(parameter, parameter.bfloat16().float())
            }

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not self.values:
            return
        for name, parameter in learned_parameters(model):
            if name in self.values:
                _set_master(parameter, self.values.pop(name))


def _set_master(parameter: nn.Parameter, value: Tensor) -> None:
    """Set the fp32 master of a parameter. All processes call this."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    value = value.to(parameter.device)
    if hasattr(parameter, "ds_tensor"):  # stage 3: equal parts, the last one padded
        size = parameter.ds_tensor.numel()
        world = torch.distributed.get_world_size()
        padded = nn.functional.pad(value.flatten(), (0, size * world - value.numel()))
        part = padded.narrow(0, size * torch.distributed.get_rank(), size)
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_full_fp32_param(parameter, value)


def by_all_names(module: nn.Module, learned: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values of a module's parameters under all names that they have.

    learned: by the names of `learned_parameters`, which names tied parameters once.
    """
    names = {parameter: name for name, parameter in learned_parameters(module)}
    values = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter in names:
            values[name] = learned[names[parameter]]
    return values


@torch.no_grad()
def whole_parameters(module: nn.Module, options: TrainingConfig) -> Iterator[tuple[str, Tensor]]:
    """The whole parameters that learn, one at a time, by name: the fp32 masters if there are any.

    All processes must take them all.
    """
    read_whole = Tensor.detach
    if options.launch in ZERO_STAGES:
        from deepspeed.utils import safe_get_full_fp32_param

        read_whole = safe_get_full_fp32_param
    if options.launch == "fsdp":
        from torch.distributed.tensor import DTensor

        _reshard(module)
        read_whole = DTensor.full_tensor
    for name, parameter in learned_parameters(module):
        yield name, read_whole(parameter)


def _reshard(module: nn.Module) -> None:
    """Shard what a forward pass without a backward pass left whole under FSDP."""
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def learned_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that learn, by name."""
    parameters = module.named_parameters()
    return [(name, parameter) for name, parameter in parameters if parameter.requires_grad]


def _read_by_weights_only_reader() -> None:
    """Make torch read DeepSpeed's checkpoints with its weights-only reader, which runs no code.

    DeepSpeed itself asks torch to unpickle them, and has no setting against this.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])


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

    torch makes a file `lock` while it builds or loads an extension. A killed process leaves this
    file behind, and all later ones would wait for ever. Here processes build and load in a folder
    of this project, and each holds a lock that ends with its process. So a file `lock` that they
    find there was left by a killed process.

    Raises UserError if the build fails.
    """
    names = []
    if not torch.cuda.is_available():
        names.append("deepspeed_shm_comm")
    if offload:
        names.append("cpu_adam")
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
