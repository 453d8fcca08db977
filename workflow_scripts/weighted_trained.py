"""Step 6: learn the mixing coefficients. All other weights are frozen."""

from xft.cli import training
from xft.config.training import MixingTraining
from xft.training.ranks import device
from xft.training.session import Session


def main(argv: list[str] | None = None) -> None:
    step = training.TrainingStep("weighted_trained", __doc__)
    step.artifact("--weighted", "The initial coefficients.")
    step.artifact("--moe", "The tuned mixture.")
    step.artifact("--ffn", "The FFN weights of its experts.")
    step.output("--out", "DIR", "The learned coefficients.")
    args = step.parse_args(argv)
    request = step.request(MixingTraining)

    from xft.conversions import mixing_artifact
    from xft.modeling.mixing import Mixing, MixingLogits

    sources = mixing_artifact.open_sources(args.moe, args.ffn, request.full)
    initial = mixing_artifact.open_mixing(args.weighted, sources, request.full)
    session = Session(request, args.moe)
    inputs = {"weighted": initial.artifact.id, **session.ids}
    logits = MixingLogits(initial.alpha, initial.shared_expert_weight)
    moe, ffn = sources["moe"].checkpoint, sources["ffn"].checkpoint
    mixing = Mixing(moe, ffn, logits, device(), session.weight_dtype)
    with session.trained(mixing.model, request.parameters, inputs, mixing=mixing) as learned:
        if not learned:
            return
        step.inputs |= sources | inputs
        with step.draft(initial.config | request.parameters) as draft:
            mixing_artifact.write(draft, logits.values(), initial.config)


if __name__ == "__main__":
    training.run("weighted_trained", main)
