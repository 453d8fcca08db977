"""Step 2: tune the mixture on instructions: all parameters, or those of low-rank experts."""

from functools import partial

from xft.artifacts.artifact import open_artifact
from xft.cli import flags, training
from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig, fault_of_low_rank
from xft.training.session import Session


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("moe_sft", __doc__)
    flags.add_path(parser, "--moe", "DIR", "The mixture.")
    flags.add_path(parser, "--out", "DIR", "The tuned mixture.")
    training.add_flags(parser, MoeSftConfig)
    args = parser.parse_args(argv)
    request = training.read_request("moe_sft", args, MoeSftConfig)
    moe = open_artifact(args.moe, "moe", full=request.full)

    check_low_rank(moe.checkpoint.config, request.options)

    from xft.reporting.cards import init_settings, moe_sft_card
    from xft.training.low_rank import adapt_mixture
    from xft.training.tuning import tune

    known = moe.manifest.parameters
    make_card = partial(moe_sft_card, init=init_settings(known))
    session, base = Session(request, moe.path), known.get("base", {})
    tune(session, moe, {"moe": moe}, base, make_card, adapt=adapt_mixture)


def check_low_rank(config: dict, options: MoeSftConfig) -> None:
    """Raise UserError if the mixture has low-rank experts and the options do not fit them."""
    if config.get("experts") != "lora":
        return
    if fault := fault_of_low_rank(options):
        raise UserError(
            f"command line: the mixture has low-rank experts (moe.experts = lora): {fault}"
        )


if __name__ == "__main__":
    training.run("moe_sft", main)
