"""Step 3: the experts' FFN weights of an upcycled model, in a checkpoint of their own."""

from workflow_scripts.checkpoints.layout import PROJECTIONS, FfnLayer, moe_layers
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.conversions.common import copy_plan
from workflow_scripts.errors import UserError


def extract_ffn(moe: Checkpoint) -> list[TensorPlan]:
    """Plan the FFN tensors of all experts, under the names that they have in the model.

    Raises UserError for a model without a shared expert: the merge needs one.
    """
    return [copy_plan(moe, name) for layer in moe_layers(moe.names) for name in _names(moe, layer)]


def _names(moe: Checkpoint, layer: FfnLayer) -> list[str]:
    shared = [layer.shared(projection) for projection in PROJECTIONS]
    if shared[0] not in moe:
        raise UserError(
            f"{moe.folder} has no shared expert (vanilla upcycling): its experts cannot be merged"
        )
    return [*shared, layer.gate_up, layer.down]
