"""Step 7: merge the experts into a dense model with the base's architecture."""

from pathlib import Path

from xft.artifacts.artifact import create_artifact
from xft.artifacts.recipe import make_recipe
from xft.checkpoints.layout import moe_layers
from xft.cli import flags, running
from xft.common.errors import UserError
from xft.config.sections import MergeMethod
from xft.conversions.mixing_artifact import open_mixing, open_sources


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("dense", __doc__)
    flags.add_path(parser, "--weighted", "DIR", "The mixing coefficients.")
    flags.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    flags.add_path(parser, "--ffn", "DIR", "The FFN weights of its experts.")
    flags.add_path(parser, "--out", "DIR", "The dense model.")
    add_method(parser)
    parser.add_argument(
        "--expert",
        type=int,
        metavar="NUMBER",
        help="Merge the shared expert with this routed expert alone, counted from 1. Default: all "
        "routed experts in their shares.",
    )
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    method = flags.options(args, MergeMethod)
    if method.needs_base and args.base is None:
        raise UserError(f"method = {method.method} starts from the base's weights. Give --base too")

    from xft.conversions.merge_methods import dense_plans, one_expert, open_base
    from xft.reporting.cards import dense_card

    full = args.verify == "full"
    sources = open_sources(args.moe, args.ffn, full)
    mixing = open_mixing(args.weighted, sources, full)
    given = sources.artifacts | {"weighted": mixing.artifact}
    if method.needs_base:
        given["base"] = open_base(args.base, sources.moe, full)
    single = {} if args.expert is None else {"expert": args.expert}
    if single:
        mixing = one_expert(mixing, args.expert)
    parameters = mixing.config | (method.model_dump() if method.needs_base else {}) | single
    tuning = sources.moe.manifest.parameters
    kept = {key: tuning[key] for key in ("template", "end_of_turn") if key in tuning}
    plans = dense_plans(sources, mixing.coefficients, method, given.get("base"))
    layers = [layer.index for layer in moe_layers(sources.ffn.checkpoint.names)]
    card = dense_card(sources.moe, mixing, layers, method, args.expert)
    inputs = {name: artifact.id for name, artifact in given.items()}
    recipe = make_recipe("dense", method.model_dump() | single, given)
    with create_artifact(args.out, "dense", parameters | kept, inputs, recipe) as draft:
        config = sources.moe.checkpoint.config["base_config"]
        draft.write_model(plans, config, like=sources.moe.path, card=card)


def add_method(parser) -> None:
    """Add the flags of the merge's method, and --base."""
    flags.add_options(parser, MergeMethod)
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="The dense base. All methods but xft need it; xft does not read it.",
    )


if __name__ == "__main__":
    running.run("dense", main)
