"""Step 2: tune all parameters of the mixture on instructions."""

from workflow_scripts import cli
from workflow_scripts.checkpoints.artifact import create_artifact, open_artifact
from workflow_scripts.training import launch, step


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("moe_sft", __doc__)
    cli.add_path(parser, "--moe", "DIR", "The mixture.")
    cli.add_path(parser, "--out", "DIR", "The tuned mixture.")
    step.add_flags(parser, "training")
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    options = step.parse_flags(args, "training")
    if step.started_processes("moe_sft", argv, options):
        return
    full = step.verifies_fully(args)
    moe = open_artifact(args.moe, "moe", full=full)

    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    from workflow_scripts.conversions.common import trained_plans
    from workflow_scripts.modeling.loading import load_whole
    from workflow_scripts.reporting.model_card import moe_sft_card
    from workflow_scripts.training.trainer import train

    step.prepare_process(options)
    tokenizer, examples, validation, data = step.prepare_examples(
        args.data, args.moe, options, full
    )
    model = load_whole(AutoModelForCausalLM, args.moe, dtype=step.weight_dtype(options))
    config = moe.checkpoint.config
    parameters = options.parameters | {"base": moe.manifest.parameters.get("base", {})}
    inputs = {"moe": moe.id, **data}
    checkpoints = step.open_checkpoints("moe_sft", args.out, options, parameters, inputs)
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
            tracking=step.open_tracking("moe_sft", args, options),
        )
        if not step.is_main_process():
            return
        with create_artifact(args.out, "moe_sft", parameters, inputs) as draft:
            state = revert_weight_conversion(model, state)
            plans = trained_plans(moe.checkpoint, state)
            card = moe_sft_card(config, parameters, data["data"])
            draft.write_model(plans, config, like=moe.path, card=card)


if __name__ == "__main__":
    launch.run("moe_sft", main)
