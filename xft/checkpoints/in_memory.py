"""The tensors and the config of a model in memory, in the form that checkpoints have."""

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.checkpoints.dtypes import TORCH_NAMES
from xft.checkpoints.header import TensorInfo
from xft.checkpoints.reader import TensorSource
from xft.common.errors import UserError

SPELLINGS = {f"torch.{name}": spelling for spelling, name in TORCH_NAMES.items()}


class LoadedModel(TensorSource):
    """A loaded model as a source of tensors. They are the model's own, not copies.

    They have the names that the model's files would have. Tied weights are there once. Raises
    UserError if the model is not one of transformers', or if its weights have a type that is not
    supported, as those of quantised models.
    """

    def __init__(self, model: PreTrainedModel, name: str = "the model"):
        self.folder = name
        if not isinstance(model, PreTrainedModel):
            raise UserError(
                f"{name} is a {type(model).__name__}, not a model of transformers. Take the model "
                "out of its wrapper; an adapter of PEFT becomes part of it by merge_and_unload()"
            )
        self.config = model.config.to_dict()
        self.config.pop("_name_or_path", None)
        tied = dict(model.named_parameters(remove_duplicate=False)).keys()
        tied -= dict(model.named_parameters()).keys()
        state = {name: value for name, value in model.state_dict().items() if name not in tied}
        self._tensors = revert_weight_conversion(model, state)
        self.tensors = {n: self._info(n, tensor) for n, tensor in self._tensors.items()}

    def get(self, name: str) -> Tensor:
        return self._tensors[name]

    def _info(self, name: str, tensor: Tensor) -> TensorInfo:
        if str(tensor.dtype) not in SPELLINGS:
            raise UserError(
                f"{self.folder}: {name} is of the type {tensor.dtype}, which is not supported. "
                "Load the model without quantisation"
            )
        return TensorInfo(SPELLINGS[str(tensor.dtype)], tuple(tensor.shape))
