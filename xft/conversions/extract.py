"""Step 3: finds the experts' FFN weights in an upcycled model."""

from xft.checkpoints.layout import FfnLayer, moe_layers, no_shared_expert
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError

FACTOR_SETTINGS = ("experts", "rank", "lora_alpha")  # what a reader of factors needs


def ffn_names(moe: Checkpoint) -> list[str]:
    """The names of the FFN tensors of all experts; of LoRA experts, of their factors.

    Raises UserError if the model has no shared expert: the merge needs one.
    """
    return [name for layer in moe_layers(moe.names) for name in _names(moe, layer)]


def _names(moe: Checkpoint, layer: FfnLayer) -> list[str]:
    if not layer.low_rank:
        shared = [layer.shared(projection, part) for projection, part in layer.tensors]
        return [*shared, *(name for part in layer.parts for name, _ in layer.fused(part))]
    experts = moe.shape(layer.factor(layer.form.output, "A"))[0]
    if moe.shape(layer.router("input"))[0] == experts:  # the router chooses among all
        raise UserError(no_shared_expert(layer.index))
    return [layer.factor(name, letter) for name in layer.form.projections for letter in "AB"]
