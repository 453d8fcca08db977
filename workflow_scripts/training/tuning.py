"""Tunes all weights of a model on instructions: the mixture in step 2, or the dense baseline."""

from collections.abc import Callable, Mapping

from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from workflow_scripts.artifacts.artifact import Artifact, create_artifact
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.conversions.common import trained_plans
from workflow_scripts.modeling.loading import load_whole
from workflow_scripts.training.session import Session, TrainingRequest


def tune(
    request: TrainingRequest,
    source: Artifact,
    source_name: str,
    base: dict,
    make_card: Callable[[dict, dict, str], str],
    others: Mapping[str, Artifact] | None = None,
) -> None:
    """Train the model of `source`, and write it as an artifact with the same names and dtypes.

    source_name: the input's name in the manifest. base: the manifest's entry about the base model.
    make_card: gives the README for a config, the manifest's parameters and the SHA-256 of the
    rows. others: further artifacts that `request` depends on, by their names in the manifest.
    Raises UserError.
    """
    session = Session(request, source.path)
    model = load_whole(AutoModelForCausalLM, source.path, dtype=session.weight_dtype)
    checkpoint, kind = source.checkpoint, request.step
    parameters = session.request.parameters | {"base": base}
    artifacts = {source_name: source, **(others or {})}
    inputs = {name: artifact.id for name, artifact in artifacts.items()} | session.data_ids
    recipe = make_recipe(kind, request.asked, artifacts | session.data_origins)
    with session.trained(model, parameters, inputs) as learned:
        if learned is None:
            return
        with create_artifact(request.out, kind, parameters, inputs, recipe) as draft:
            plans = trained_plans(checkpoint, revert_weight_conversion(model, learned))
            card = make_card(checkpoint.config, parameters, session.data_ids["data"])
            draft.write_model(plans, checkpoint.config, like=source.path, card=card)
