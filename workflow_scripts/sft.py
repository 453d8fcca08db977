"""A baseline: tune the dense base on the same instructions, without experts.

With --lora-rank low-rank products of its linear layers learn, and become part of its weights at the
end. Without it all parameters learn.

With --match-flops the tuning takes as many FLOPs as the mixture's would take on the same rows, so
it has more optimiser steps. The count is that of `xft plan`: forward and backward pass of all
weights that compute a token, with chosen experts and router, and the attention.
"""

from dataclasses import replace
from functools import partial

from xft.artifacts.artifact import OpenedArtifact
from xft.cli.training_step import TrainingStep, run
from xft.config.sections import SHAPE_KEYS, MoeConfig, SftTraining
from xft.training.session import Session, TrainingRequest


def main(argv: list[str] | None = None) -> None:
    step = TrainingStep("sft", __doc__)
    step.artifact("--base", "The dense model.")
    step.output("--out", "DIR", "The tuned dense model.")
    step.add_argument(
        "--match-flops",
        action="store_true",
        help="Multiply max_steps, or num_train_epochs, and warmup_steps, so that the training "
        "takes as many FLOPs as that of a mixture of this base with --num-experts and the like.",
    )
    step.add_options(MoeConfig, SHAPE_KEYS)
    args = step.parse_args(argv)
    request = step.request(SftTraining)
    base = step.open("base", args.base, "base", "dense")
    if args.match_flops:
        moe = step.options(MoeConfig)
        request = replace(request, flops_ratio=_flops_ratio(base, moe, request))

    from xft.reporting.cards import origin, plain_card
    from xft.training.tuning import adapt_all, tune

    options = request.options
    adapt = None
    if options.lora_rank is not None:
        adapt = partial(adapt_all, rank=options.lora_rank, alpha=options.lora_alpha)
    session = Session(request, base.path)
    tune(session, base, step.ids, origin(base), partial(plain_card, "sft"), adapt=adapt)


def _flops_ratio(base: OpenedArtifact, moe: MoeConfig, request: TrainingRequest) -> float:
    """FLOPs of a token in the tuning of a mixture of this base, divided by those in the base's."""
    from xft.estimates.model_sizes import Models, check_sizes, read_table, tuning_ratio

    table = read_table(base.path)
    check_sizes(table.config, base.path / "config.json")
    return tuning_ratio(Models(table, moe), request.tokens.max_length, request.options)


if __name__ == "__main__":
    run("sft", main)
