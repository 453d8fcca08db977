"""The baseline: tune all parameters of the dense base on the same instructions, without experts."""

from workflow_scripts import cli
from workflow_scripts.artifacts.artifact import open_artifact
from workflow_scripts.training import launch, step


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("sft", __doc__)
    cli.add_path(parser, "--base", "DIR", "The dense model.")
    cli.add_path(parser, "--out", "DIR", "The tuned dense model.")
    step.add_flags(parser, "sft")
    cli.add_verify(parser)
    args = parser.parse_args(argv)
    options = step.parse_flags(args, "sft")
    if step.started_processes("sft", argv, options):
        return
    base = open_artifact(args.base, "base", "dense", full=step.verifies_fully(args))

    from workflow_scripts.reporting.model_card import origin, sft_card
    from workflow_scripts.training.tuning import tune

    tune("sft", base, "base", origin(base), sft_card, args, options)


if __name__ == "__main__":
    launch.run("sft", main)
