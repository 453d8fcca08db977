"""Write a mixture with low-rank experts as one with full experts.

The experts are matrices of their own in the result, which computes the same. A tuning of all of
their weights can go on from it, and tools that know only full experts can read it.
"""

from xft.artifacts.artifact import create_artifact, open_artifact
from xft.cli import flags


def main(argv: list[str] | None = None) -> None:
    parser = flags.StepParser("xft export-full", __doc__)
    parser.artifact("--moe", "The mixture with low-rank experts.")
    parser.output("--out", "DIR", "The mixture with full experts.")
    args = parser.parse_args(argv)

    from xft.conversions.full_experts import full_config, full_plans
    from xft.reporting.cards import exported_card

    moe = open_artifact(args.moe, "moe", "moe_sft", full=args.verify == "full")
    config = full_config(moe.checkpoint)
    kind = "moe" if moe.manifest.kind == "moe" else "moe_sft"
    parameters = moe.manifest.parameters | {"experts": "full"}
    card = exported_card(config, parameters, moe.id)
    with create_artifact(args.out, kind, parameters, {"moe": moe.id}) as draft:
        draft.write_model(full_plans(moe.checkpoint), config, like=moe.path, card=card)
