"""A baseline: tune the dense base on the same instructions, without experts.

With --lora-rank low-rank products of its linear layers learn, and become part of its weights at the
end. Without it all parameters learn.

With --match-flops the tuning takes as many FLOPs as the mixture's would take on the same rows, so
it has more optimiser steps. The count is that of `xft plan`: forward and backward pass of all
weights that compute a token, with chosen experts and router, and the attention.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from xft.artifacts.artifact import Artifact, open_artifact
from xft.cli import flags, training
from xft.common.errors import UserError
from xft.config.section import keys
from xft.config.sections import MixtureConfig, MoeConfig, SftConfig, effective
from xft.training.session import Session, TrainingRequest


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("sft", __doc__)
    flags.add_path(parser, "--base", "DIR", "The dense model.")
    flags.add_path(parser, "--out", "DIR", "The tuned dense model.")
    parser.add_argument(
        "--match-flops",
        type=Path,
        metavar="DIR",
        help="An upcycled mixture of this base. Multiplies max_steps, or num_train_epochs, and "
        "warmup_steps, so that the training takes as many FLOPs as this mixture's would.",
    )
    training.add_flags(parser, SftConfig)
    args = parser.parse_args(argv)
    request = training.read_request("sft", args, SftConfig)
    base = open_artifact(args.base, "base", "dense", full=request.full)
    others = {}
    if args.match_flops:
        moe = open_artifact(args.match_flops, "moe", full=request.full)
        request = replace(request, flops_ratio=_flops_ratio(base, moe, request))
        others = {"flops_of": moe}

    from xft.reporting.cards import origin, sft_card
    from xft.training.low_rank import adapt_all, all_weights
    from xft.training.tuning import tune

    options, adapt = request.options, all_weights
    if options.lora_rank is not None:
        adapt = partial(adapt_all, rank=options.lora_rank, alpha=options.lora_alpha)
    session, sources = Session(request, base.path), {"base": base} | others
    tune(session, base, sources, origin(base), sft_card, adapt=adapt)


def _flops_ratio(base: Artifact, moe: Artifact, request: TrainingRequest) -> float:
    """FLOPs of a token in the mixture's training, divided by those in the base's.

    Raises UserError if the mixture has another base.
    """
    from xft.estimates.flops import tuning_ratio
    from xft.estimates.parameters import Models
    from xft.estimates.tensors import check_sizes, read_table

    config = moe.checkpoint.config
    table = read_table(base.path)
    if config.get("base_config") != table.config:
        raise UserError(
            f"--match-flops {moe.path} was made from another base than {base.path}. Name the "
            "mixture that step moe makes from this base"
        )
    check_sizes(table.config, base.path / "config.json")
    stated = {key: config[key] for key in keys(MixtureConfig) if key in config}
    settings = MoeConfig(**effective(stated))
    length, lora_rank = request.tokens.max_length, request.options.lora_rank
    return tuning_ratio(Models(table, settings), length, lora_rank)


if __name__ == "__main__":
    training.run("sft", main)
