"""Tuning of all weights of a model on instructions: the mixture in step 2, the dense baseline."""

import argparse
from collections.abc import Callable

from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from workflow_scripts.artifacts.artifact import Artifact, create_artifact
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.conversions.common import trained_plans
from workflow_scripts.modeling.loading import load_whole
from workflow_scripts.training import step
from workflow_scripts.training.trainer import train


def tune(
    kind: str,
    source: Artifact,
    source_name: str,
    base: dict,
    make_card: Callable[[dict, dict, str], str],
    args: argparse.Namespace,
    options: step.TrainingOptions,
) -> None:
    """Train the model of `source` and write it as an artifact of `kind`, in its names and dtypes.

    source_name: what the manifest calls the input. base: what it says of the base model.
    make_card: the README of a config, the manifest's parameters and the SHA-256 of the rows.
    args: with the flags of `step.add_flags`, out and verify. Raises UserError.
    """
    step.prepare_process(options)
    tokenizer, examples, validation, data = step.prepare_examples(
        args.data, source.path, options, step.verifies_fully(args)
    )
    model = load_whole(AutoModelForCausalLM, source.path, dtype=step.weight_dtype(options))
    checkpoint = source.checkpoint
    parameters = options.parameters | {"base": base}
    inputs = {source_name: source.id, **data.ids}
    recipe = make_recipe(kind, options.asked, {source_name: source, **data.origins})
    checkpoints = step.open_checkpoints(kind, args.out, options, parameters, inputs)
    with checkpoints.claimed():
        state = train(
            model,
            examples,
            tokenizer,
            options.training,
            options.seed,
            checkpoints,
            args.metrics,
            validation=validation,
            tracking=step.open_tracking(kind, args, options),
        )
        if not step.is_main_process():
            return
        with create_artifact(args.out, kind, parameters, inputs, recipe) as draft:
            plans = trained_plans(checkpoint, revert_weight_conversion(model, state))
            card = make_card(checkpoint.config, parameters, data.ids["data"])
            draft.write_model(plans, checkpoint.config, like=source.path, card=card)
