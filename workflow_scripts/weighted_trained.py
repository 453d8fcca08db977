"""Step 6: learn the mixing coefficients; everything else is frozen."""

from workflow_scripts import cli
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.conversions import mixing_artifact
from workflow_scripts.training import launch, step


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("weighted_trained", __doc__)
    cli.add_path(parser, "--weighted", "DIR", "The initial coefficients.")
    cli.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    cli.add_path(parser, "--ffn", "DIR", "Its FFN weights.")
    cli.add_path(parser, "--out", "DIR", "The coefficients.")
    step.add_flags(parser, "mixing")
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    options = step.parse_flags(args, "mixing")
    if step.started_processes("weighted_trained", argv, options):
        return
    full = step.verifies_fully(args)
    sources = mixing_artifact.open_sources(args.moe, args.ffn, full)
    initial = mixing_artifact.open_mixing(args.weighted, sources, full)

    from workflow_scripts.modeling.mixing import Mixing, MixingLogits
    from workflow_scripts.training.trainer import train

    step.prepare_process(options)
    tokenizer, examples, validation, data = step.prepare_examples(
        args.data, args.moe, options, full
    )
    logits = MixingLogits(initial.alpha, initial.lambda_logit, initial.shared_expert_weight)
    mixing = Mixing(
        sources.moe.checkpoint,
        sources.ffn.checkpoint,
        logits,
        step.device(),
        step.weight_dtype(options),
    )
    inputs = {"weighted": initial.artifact.id, **data.ids}
    recipe = make_recipe(
        "weighted_trained",
        options.asked,
        sources.artifacts | {"weighted": initial.artifact, **data.origins},
    )
    checkpoints = step.open_checkpoints(
        "weighted_trained", args.out, options, options.parameters, inputs
    )
    with checkpoints.claimed():
        train(
            mixing.model,
            examples,
            tokenizer,
            options.training,
            options.seed,
            checkpoints,
            args.metrics,
            mixing,
            validation=validation,
            tracking=step.open_tracking("weighted_trained", args, options),
        )
        if not step.is_main_process():
            return
        mixing_artifact.write(
            args.out,
            "weighted_trained",
            logits.tensors(),
            initial.config,
            sources,
            options.parameters,
            inputs,
            recipe,
        )


if __name__ == "__main__":
    launch.run("weighted_trained", main)
