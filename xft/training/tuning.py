"""Tunes a model on instructions: a mixture, or the dense baseline. All of it learns, or what
`adapt_all` and `adapt_mixture` say, with PEFT's products beside frozen linear layers.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.artifacts.artifact import Draft, OpenedArtifact, create_artifact, write_json
from xft.artifacts.manifest import as_json
from xft.checkpoints.model_files import check_rank, torch_dtype
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import trained_specs
from xft.common.file_access import write_whole
from xft.data.prompt_templates import make_template
from xft.data.tokenizers import GENERATION_CONFIG, tuned_generation_config
from xft.modeling.whole_models import load_whole
from xft.training.losses import ArtifactLosses
from xft.training.ranks import device, is_main_process
from xft.training.session import Session


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
        others = dict(learned)
        merged = {}
        for name, weight in self._frozen.items():
            a = others.pop(f"{name}.lora_A.default.weight").to(weight.device).float()
            b = others.pop(f"{name}.lora_B.default.weight").to(weight.device).float()
            product = self._scale * (b @ a)
            merged[f"{name}.weight"] = weight.add_(product.to(weight))
        return others | merged


def tune(
    session: Session,
    source: OpenedArtifact,
    ids: dict[str, str],
    base: dict,
    make_card: Callable[[dict, dict, str], str],
    adapt: Callable[[PreTrainedModel], Adapters | None] | None = None,
) -> None:
    """Train the model of `source`, and write it as an artifact with the same names and dtypes.

    ids: of the artifacts that it is made from, by their names in the manifest.
    base: the manifest's entry about the base model.
    make_card: gives the README for a config, the manifest's parameters and the SHA-256 of the rows.
    adapt: freezes what must not learn, and adds what learns in its place; None: all weights learn.

    Raises UserError.
    """
    request = session.request
    model = load_whole(AutoModelForCausalLM, source.path, dtype=session.weight_dtype)
    adapters = adapt(model) if adapt else None
    checkpoint = source.checkpoint
    template = make_template(request.tokens.template, session.tokenizer)
    settings = tuned_generation_config(source.path, checkpoint.config, session.tokenizer, template)
    parameters = request.parameters | session.datasets | {"base": base}
    if template.end_of_turn is not None:
        parameters["end_of_turn"] = template.end_of_turn
    inputs = ids | session.ids
    losses = None if adapters else _artifact_losses(session, checkpoint)
    with session.trained(model, parameters, inputs, losses=losses) as learned:
        if not learned:
            return
        if adapters is not None:
            learned = adapters.merged(learned)
        with create_artifact(request.out, request.step, parameters, inputs) as draft:
            state = revert_weight_conversion(model, learned)
            specs = trained_specs(checkpoint, state, model.base_model_prefix)
            card = make_card(checkpoint.config, parameters, session.ids["data"])
            draft.write_model(specs, checkpoint.config, like=source.path, card=card)
            if settings is not None:
                write_json(draft.path / GENERATION_CONFIG, settings)
            if request.losses and losses and losses.content:
                _write_losses(session, losses, draft)


def _artifact_losses(session: Session, checkpoint: Checkpoint) -> ArtifactLosses | None:
    """Measures the losses of the artifact of a training.

    None if the artifact is not the model after the last step, or if the training does not compute
    as step validation_loss does.
    """
    options = session.request.options
    if options.keep != "last":
        return None
    if options.launch != "single" or options.precision != "fp32" or device() != "cpu":
        return None
    dtypes = {checkpoint.dtype(name) for name in checkpoint.names}
    if len(dtypes) > 1:
        return None
    return ArtifactLosses(torch_dtype(dtypes.pop()), session.tokenizer)


def _write_losses(session: Session, losses: ArtifactLosses, draft: Draft) -> None:
    """Write the losses of an artifact, and what they were measured with, for validation_loss."""
    request = session.request
    measured_with = {
        "tokens": session.ids.get("tokens"),
        "threads": request.run.threads,
        "weights": {name: file["sha256"] for name, file in draft.known_files.items()},
    }
    write_whole(request.losses, as_json({"of": measured_with, "losses": losses.content}))


def adapt_all(model: PreTrainedModel, rank: int, alpha: float) -> Adapters:
    """Let low-rank products of all linear layers learn, apart from the output embeddings."""
    return Adapters(model, _linear_layers(model, without=[]), rank, alpha)


def adapt_mixture(model: PreTrainedModel) -> Adapters | None:
    """Let learn what the config of a mixture says.

    Full experts: all weights. LoRA experts: their factors and the routers, and by `train_rest`
    nothing else, all other weights but the base's MLPs, or low-rank products of the linear layers
    outside the MLPs. Raises UserError as `Adapters` does.
    """
    config = model.config
    if config.experts != "lora":
        return None
    adapters = None
    if config.train_rest == "lora":
        mlps = [layer.mlp for layer in model.get_decoder().layers]
        adapters = Adapters(model, _linear_layers(model, mlps), config.rank, config.lora_alpha)
    model.choose_trainable(freeze_rest=config.train_rest == "frozen")
    return adapters


def _linear_layers(model: PreTrainedModel, without: Iterable[nn.Module]) -> dict[str, nn.Linear]:
    """The linear layers by name, apart from the output embeddings and those within `without`."""
    excluded = {model.get_output_embeddings()}
    for part in without:
        excluded.update(part.modules())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in excluded
    }
