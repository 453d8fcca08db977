"""The tensors and the config of a model in memory, in the form that checkpoints have."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.checkpoints.model_files import TORCH_NAMES, TensorInfo
from xft.checkpoints.reader import TensorSource
from xft.common.errors import UserError

SPELLINGS = {f"torch.{name}": spelling for spelling, name in TORCH_NAMES.items()}


class LoadedModel(TensorSource):
    """A loaded model as a source of tensors. They are the model's own, not copies.

    They have the names that the model's files would have. Tied weights are there once. Raises
    UserError if the model is not one of transformers', or if its tensors are not all weights of its
    class, with values, and of a type that is supported.
    """

    def __init__(self, model: PreTrainedModel, name: str = "the model"):
        self.folder = name
        if not isinstance(model, PreTrainedModel):
            raise UserError(
                f"{name} is a {type(model).__name__}, not a model of transformers. Take the model "
                "out of its wrapper; an adapter of PEFT becomes part of it by merge_and_unload()"
            )
        held = model.state_dict()
        fault = fault_of_state(model, held)
        if fault is not None:
            raise UserError(f"{name} {fault}")
        self.config = model.config.to_dict()
        self.config.pop("_name_or_path", None)
        all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied = all_names - {name for name, _ in model.named_parameters()}
        state = {name: value for name, value in held.items() if name not in tied}
        self._tensors = revert_weight_conversion(model, state)
        self.tensors = {name: self._info(name, value) for name, value in self._tensors.items()}

    def get(self, name: str) -> Tensor:
        return self._tensors[name]

    def _info(self, name: str, tensor: Tensor) -> TensorInfo:
        if str(tensor.dtype) not in SPELLINGS:
            raise UserError(
                f"{self.folder}: {name} is of the type {tensor.dtype}, which is not supported. "
                "Load the model without quantisation"
            )
        return TensorInfo(SPELLINGS[str(tensor.dtype)], tuple(tensor.shape))


def fault_of_state(model: PreTrainedModel, held: dict) -> str | None:
    """Why the values in a model's state are not all weights of its class, and what to do."""
    is_quantised = getattr(model.config, "quantization_config", None) is not None
    if is_quantised or not all(isinstance(value, Tensor) for value in held.values()):
        return "is quantised. Load it without quantisation"
    adapted = [name.partition(".base_layer.")[0] for name in held if ".base_layer." in name]
    if adapted:
        return (
            f"holds adapters of PEFT, such as that around {adapted[0]}. "
            "They become part of it by merge_and_unload() of the PEFT model"
        )
    with torch.device("meta"):
        whole = type(model)(copy.deepcopy(model.config)).state_dict()
    different = sorted(name for name, _ in _shapes(held) ^ _shapes(whole))
    if different:
        return (
            f"is not as its config says: {different[0]} is missing, new or of another shape. Give "
            "a whole model; torch.nn.utils.prune.remove makes pruned weights final"
        )
    unset = [name for name, value in held.items() if value.is_meta]
    if unset:
        return (
            f"has no values for {unset[0]}: it is offloaded, or on the device meta. Load it whole"
        )
    return None


def _shapes(state: dict[str, Tensor]) -> set[tuple[str, torch.Size]]:
    """The name and the shape of each tensor."""
    return {(name, value.shape) for name, value in state.items()}
