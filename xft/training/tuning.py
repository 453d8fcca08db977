"""Tunes a model on instructions: a mixture, or the dense baseline."""

from collections.abc import Callable

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xft.artifacts.artifact import OpenedArtifact, create_artifact, write_json
from xft.artifacts.manifest import as_json
from xft.checkpoints.header import torch_dtype
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import trained_specs
from xft.common.file_access import write_whole
from xft.data.prompt_templates import make_template
from xft.data.tokenizers import GENERATION_CONFIG, tuned_generation_config
from xft.modeling.loading import load_whole
from xft.training.low_rank import Adapters
from xft.training.session import Session
from xft.training.this_process import device
from xft.training.validation import ArtifactLosses


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
    checkpoint, kind = source.checkpoint, request.step
    template = make_template(request.tokens.template, session.tokenizer)
    generation = tuned_generation_config(
        source.path, checkpoint.config, session.tokenizer, template
    )
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
        with create_artifact(request.out, kind, parameters, inputs) as draft:
            state = revert_weight_conversion(model, learned)
            specs = trained_specs(checkpoint, state, model.base_model_prefix)
            card = make_card(checkpoint.config, parameters, session.ids["data"])
            draft.write_model(specs, checkpoint.config, like=source.path, card=card)
            if generation is not None:
                write_json(draft.path / GENERATION_CONFIG, generation)
            if request.losses and losses and losses.content:
                tokens, threads = session.ids.get("tokens"), request.run.threads
                weights = {name: file["sha256"] for name, file in draft.known_files.items()}
                of = {"tokens": tokens, "threads": threads, "weights": weights}
                write_whole(request.losses, as_json({"of": of, "losses": losses.content}))


def _artifact_losses(session: Session, checkpoint: Checkpoint) -> ArtifactLosses | None:
    """None if the artifact is not the model after the last step, or the training does not compute
    as step validation_loss does.
    """
    options, dtypes = session.request.options, {checkpoint.dtype(name) for name in checkpoint.names}
    computes = options.launch, options.precision, options.keep, device()
    if computes != ("single", "fp32", "last", "cpu") or len(dtypes) > 1:
        return None
    return ArtifactLosses(torch_dtype(*dtypes), session.tokenizer)
