"""Step 6: learn the mixing coefficients. All other weights are frozen."""

from xft.cli.training_step import TrainingStep, run
from xft.config.training import MixingTraining
from xft.training.ranks import device
from xft.training.session import Session


def main(argv: list[str] | None = None) -> None:
    step = TrainingStep("weighted_trained", __doc__)
    step.artifact("--weighted", "The initial coefficients.")
    step.artifact("--moe", "The tuned mixture.")
    step.artifact("--ffn", "The FFN weights of its experts.")
    step.output("--out", "DIR", "The learned coefficients.")
    args = step.parse_args(argv)
    request = step.request(MixingTraining)

    from xft.conversions.coefficients import open_coefficients, open_sources, write_coefficients
    from xft.modeling.mixing import Mixing, MixingLogits

    sources = open_sources(args.moe, args.ffn, request.full)
    initial = open_coefficients(args.weighted, sources, request.full)
    session = Session(request, args.moe)
    inputs = {"weighted": initial.artifact.id, **session.ids}
    logits = MixingLogits(initial.alpha, initial.lam)
    moe = sources["moe"].checkpoint
    ffn = sources["ffn"].checkpoint
    mixing = Mixing(moe, ffn, logits, device(), session.weight_dtype)
    with session.trained(mixing.model, request.parameters, inputs, mixing=mixing) as learned:
        if not learned:
            return
        step.inputs |= sources | inputs
        with step.draft(initial.config | request.parameters) as draft:
            write_coefficients(draft, logits.values(), initial.config)


if __name__ == "__main__":
    run("weighted_trained", main)
