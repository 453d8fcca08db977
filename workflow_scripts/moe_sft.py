"""Step 2: tune all parameters of the mixture on instructions."""

from workflow_scripts import cli
from workflow_scripts.artifacts.artifact import open_artifact
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
    moe = open_artifact(args.moe, "moe", full=step.verifies_fully(args))

    from workflow_scripts.reporting.model_card import moe_sft_card
    from workflow_scripts.training.tuning import tune

    base = moe.manifest.parameters.get("base", {})
    tune("moe_sft", moe, "moe", base, moe_sft_card, args, options)


if __name__ == "__main__":
    launch.run("moe_sft", main)
