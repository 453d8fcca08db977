"""Step 1, upcycling: turn a dense model into a mixture of experts with a new router.

The experts are copies of the dense model's MLP. With --experts lora they share that MLP, and each
adds products of low rank to its matrices, which are zero at the start. The mixture then gives the
same outputs as the dense model, for every choice of the router. With --init noise or drop the
routed experts differ, and the step prints how far each layer is from the dense model's.
"""

from xft.artifacts.artifact import create_artifact, open_artifact
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.config.sections import MoeConfig, RunConfig


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("moe", __doc__)
    flags.add_path(parser, "--base", "DIR", "The dense model.")
    flags.add_path(parser, "--out", "DIR", "The upcycled model.")
    flags.add_options(parser, RunConfig, ["seed"])
    flags.add_options(parser, MoeConfig)
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    seed = flags.options(args, RunConfig, ["seed"]).seed
    moe = flags.options(args, MoeConfig)

    from xft.conversions.upcycle import upcycle, upcycled_config, weights_dtype
    from xft.modeling.loading import check_fit
    from xft.modeling.upcycling import check_loadable
    from xft.reporting.cards import moe_card, origin

    base = open_artifact(args.base, "base", "dense", full=args.verify == "full")
    checkpoint = base.checkpoint
    plans = upcycle(checkpoint, moe, seed)
    config = upcycled_config(checkpoint.config, moe, weights_dtype(checkpoint))
    check_fit(base.path)
    check_loadable(config)
    parameters = moe.model_dump() | {"seed": seed, "base": origin(base)}
    recipe = make_recipe("moe", parameters, {"base": base})
    with create_artifact(args.out, "moe", parameters, {"base": base.id}, recipe) as draft:
        draft.write_model(plans, config, like=base.path, card=moe_card(config, parameters))
    if moe.init != "copy":
        from xft.modeling.start_distance import report_distances

        report_distances(checkpoint, args.out, moe, seed)


if __name__ == "__main__":
    running.run("moe", main)
