"""Step 7: merge the experts into a dense model with the base's architecture."""

from workflow_scripts.artifacts.artifact import create_artifact
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.checkpoints.layout import moe_layers
from workflow_scripts.cli import flags, running
from workflow_scripts.conversions.mixing_artifact import open_mixing, open_sources


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("dense", __doc__)
    flags.add_path(parser, "--weighted", "DIR", "The mixing coefficients.")
    flags.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    flags.add_path(parser, "--ffn", "DIR", "The FFN weights of its experts.")
    flags.add_path(parser, "--out", "DIR", "The dense model.")
    flags.add_verify(parser)
    args = parser.parse_args(argv)

    from workflow_scripts.conversions.merge import merge_plans
    from workflow_scripts.reporting.dense_card import dense_card

    full = args.verify == "full"
    sources = open_sources(args.moe, args.ffn, full)
    mixing = open_mixing(args.weighted, sources, full)
    moe, ffn = sources.moe.checkpoint, sources.ffn.checkpoint
    plans = merge_plans(moe, ffn, mixing.coefficients)
    card = dense_card(sources.moe, mixing, [layer.index for layer in moe_layers(ffn.names)])
    inputs = sources.ids | {"weighted": mixing.artifact.id}
    tuning = sources.moe.manifest.parameters
    template = {"template": tuning["template"]} if "template" in tuning else {}
    recipe = make_recipe("dense", {}, sources.artifacts | {"weighted": mixing.artifact})
    with create_artifact(args.out, "dense", mixing.config | template, inputs, recipe) as draft:
        draft.write_model(plans, moe.config["base_config"], like=sources.moe.path, card=card)


if __name__ == "__main__":
    running.run("dense", main)
