"""Steps 4 and 5: set lambda, and create mixing coefficients: equal shares of the routed experts."""

from xft.cli.step import Step, run
from xft.config.reading import check_lambda
from xft.config.sections import MixingShape


def main(argv: list[str] | None = None) -> None:
    step = Step("weighted_init", __doc__)
    step.artifact("--moe", "The tuned mixture.")
    step.artifact("--ffn", "The FFN weights of its experts.")
    step.add_argument(
        "--lam", required=True, metavar="X", help="Lambda, the weight of the shared expert, 0 to 1."
    )
    step.output("--out", "DIR", "The coefficients.")
    args = step.parse_args(argv)
    shape = step.options(MixingShape)
    lam = check_lambda(args.lam, "--lam")

    from xft.conversions.coefficients import initial_logits, open_sources, write_coefficients

    sources = open_sources(args.moe, args.ffn, step.full)
    config = {"shared_expert_weight": lam, **shape.model_dump()}
    step.inputs |= sources
    with step.draft(config) as draft:
        alpha = initial_logits(sources["ffn"].checkpoint, shape.granularity)
        write_coefficients(draft, alpha, config)


if __name__ == "__main__":
    run("weighted_init", main)
