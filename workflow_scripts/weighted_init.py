"""Steps 4 and 5: set lambda and start the mixing coefficients with equal shares."""

from workflow_scripts import cli
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.configuration import MIXING_SHAPE, check_lambda, check_learnable
from workflow_scripts.conversions import mixing_artifact


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("weighted_init", __doc__)
    cli.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    cli.add_path(parser, "--ffn", "DIR", "Its FFN weights.")
    parser.add_argument(
        "--lam", required=True, metavar="X", help="lambda, the shared expert's weight, 0 to 1."
    )
    cli.add_path(parser, "--out", "DIR", "The coefficients.")
    cli.add_options(parser, "mixing", MIXING_SHAPE)
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    shape = cli.options(args, "mixing", MIXING_SHAPE)
    config = {"shared_expert_weight": check_lambda(args.lam, "--lam"), **shape}
    if config["learn_lambda"]:
        check_learnable(config["shared_expert_weight"], "--lam")

    from workflow_scripts.conversions.merge import initial_logits

    sources = mixing_artifact.open_sources(args.moe, args.ffn, full=args.verify == "full")
    logits = initial_logits(sources.ffn.checkpoint, **config)
    asked = shape | {"lam": config["shared_expert_weight"]}
    recipe = make_recipe("weighted_init", asked, sources.artifacts)
    mixing_artifact.write(args.out, "weighted_init", logits, config, sources, recipe=recipe)


if __name__ == "__main__":
    cli.run("weighted_init", main)
