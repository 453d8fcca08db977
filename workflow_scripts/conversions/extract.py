"""Step 3: copies the experts' FFN weights of an upcycled model to a checkpoint of their own."""

from workflow_scripts.checkpoints.layout import FfnLayer, moe_layers
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.conversions.common import copy_plan


def extract_ffn(moe: Checkpoint) -> list[TensorPlan]:
    """Plan the FFN tensors of all experts, with their names in the model.

    Raises UserError if the model has no shared expert: the merge needs one.
    """
    return [copy_plan(moe, name) for layer in moe_layers(moe.names) for name in _names(layer)]


def _names(layer: FfnLayer) -> list[str]:
    shared = [layer.shared(projection, part) for projection, part in layer.tensors]
    fused = [
        name for part in layer.parts for name in (layer.experts_in(part), layer.experts_out(part))
    ]
    return [*shared, *fused]
