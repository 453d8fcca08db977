"""Low-rank tunings: what of a model learns, and PEFT's products beside its frozen linear layers."""

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel

from xft.checkpoints.model_files import check_rank
from xft.training.this_process import is_main_process


class Adapters:
    """PEFT's low-rank products, W + alpha / rank B A, beside linear layers (arXiv 2106.09685).

    All other weights of the model are frozen. Biases are frozen too.
    """

    def __init__(
        self, model: PreTrainedModel, layers: dict[str, nn.Linear], rank: int, alpha: float
    ):
        """Add them to `layers`, by name. Raises UserError if the rank is too large for a layer."""
        check_rank("rank", rank, {name: min(layer.weight.shape) for name, layer in layers.items()})
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers))
        # An engine that shards or rounds the model's weights leaves these tensors as they are.
        kept = layers if is_main_process() else {}
        self._frozen = {name: layer.weight.detach() for name, layer in kept.items()}
        self._scale = alpha / rank
        LoraModel(model, settings, "default")

    def merged(self, learned: dict[str, Tensor]) -> dict[str, Tensor]:
        """The learned tensors by name, with merged weights in place of the factors of products.

        Only in the main process, which keeps the frozen weights, and only once: they become the
        merged ones in place. The product is computed in fp32, and rounded to the weight's dtype.
        """
        others, merged = dict(learned), {}
        for name, weight in self._frozen.items():
            reduce, expand = (
                others.pop(f"{name}.lora_{factor}.default.weight").to(weight.device).float()
                for factor in "AB"
            )
            merged[f"{name}.weight"] = weight.add_((self._scale * (expand @ reduce)).to(weight))
        return others | merged


def adapt_all(model: PreTrainedModel, rank: int, alpha: float) -> Adapters:
    """Let low-rank products of all linear layers learn, apart from the output embeddings."""
    return Adapters(model, _linear_layers(model, without=[]), rank, alpha)


def adapt_mixture(model: PreTrainedModel) -> Adapters | None:
    """Let learn what the config of a mixture says.

    Full experts: all weights. LoRA experts: their factors and the routers, and by `train_rest`
    nothing else, all other weights but the base's MLPs, or low-rank products of the linear layers
    outside the MLPs. Raises UserError as `Adapters` does.
    """
    config, adapters = model.config, None
    if config.experts != "lora":
        return None
    if config.train_rest == "lora":
        mlps = [layer.mlp for layer in model.get_decoder().layers]
        adapters = Adapters(model, _linear_layers(model, mlps), config.rank, config.lora_alpha)
    model.choose_trainable(freeze_rest=config.train_rest == "frozen")
    return adapters


def _linear_layers(model: PreTrainedModel, without: Iterable[nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers by name, apart from the output embeddings and those within `without`."""
    excluded = {model.get_output_embeddings(), *(m for part in without for m in part.modules())}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in excluded
    }
