"""Steps 4 and 5: set lambda, and create mixing coefficients with equal shares."""

from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.cli import flags, running
from workflow_scripts.config.sections import MixingShape
from workflow_scripts.config.validation import check_lambda
from workflow_scripts.conversions import mixing_artifact


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("weighted_init", __doc__)
    flags.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    flags.add_path(parser, "--ffn", "DIR", "The FFN weights of its experts.")
    parser.add_argument(
        "--lam", required=True, metavar="X", help="Lambda, the weight of the shared expert, 0 to 1."
    )
    flags.add_path(parser, "--out", "DIR", "The coefficients.")
    flags.add_options(parser, MixingShape)
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    shape = flags.options(args, MixingShape)
    lam = check_lambda(args.lam, shape, "--lam")
    config = {"shared_expert_weight": lam, **shape.model_dump()}

    from workflow_scripts.conversions.merge import initial_logits

    sources = mixing_artifact.open_sources(args.moe, args.ffn, full=args.verify == "full")
    logits = initial_logits(sources.ffn.checkpoint, **config)
    asked = shape.model_dump() | {"lam": lam}
    recipe = make_recipe("weighted_init", asked, sources.artifacts)
    mixing_artifact.write(args.out, "weighted_init", logits, config, sources, recipe=recipe)


if __name__ == "__main__":
    running.run("weighted_init", main)
