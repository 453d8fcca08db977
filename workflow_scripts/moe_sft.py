"""Step 2: tune all parameters of the mixture on instructions."""

from functools import partial

from workflow_scripts.artifacts.artifact import open_artifact
from workflow_scripts.cli import flags, training
from workflow_scripts.config.sections import MoeSftConfig
from workflow_scripts.training.launch import started_processes
from workflow_scripts.training.session import Session


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("moe_sft", __doc__)
    flags.add_path(parser, "--moe", "DIR", "The mixture.")
    flags.add_path(parser, "--out", "DIR", "The tuned mixture.")
    training.add_flags(parser, MoeSftConfig)
    args = parser.parse_args(argv)
    request = training.read_request("moe_sft", args, MoeSftConfig)
    if started_processes(request, argv):
        return
    moe = open_artifact(args.moe, "moe", full=request.full)

    from workflow_scripts.reporting.model_card import init_settings, moe_sft_card
    from workflow_scripts.training.tuning import tune

    known = moe.manifest.parameters
    make_card = partial(moe_sft_card, init=init_settings(known))
    tune(Session(request, moe.path), moe, {"moe": moe}, known.get("base", {}), make_card)


if __name__ == "__main__":
    training.run("moe_sft", main)
