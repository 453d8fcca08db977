"""A baseline: tune all parameters of the dense base on the same instructions, without experts."""

from workflow_scripts.artifacts.artifact import open_artifact
from workflow_scripts.cli import flags, training
from workflow_scripts.config.sections import SftConfig
from workflow_scripts.training.launch import started_processes


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("sft", __doc__)
    flags.add_path(parser, "--base", "DIR", "The dense model.")
    flags.add_path(parser, "--out", "DIR", "The tuned dense model.")
    training.add_flags(parser, SftConfig)
    args = parser.parse_args(argv)
    request = training.read_request("sft", args, SftConfig)
    if started_processes(request, argv):
        return
    base = open_artifact(args.base, "base", "dense", full=request.full)

    from workflow_scripts.reporting.model_card import origin, sft_card
    from workflow_scripts.training.tuning import tune

    tune(request, base, "base", origin(base), sft_card)


if __name__ == "__main__":
    training.run("sft", main)
