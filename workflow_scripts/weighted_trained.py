"""Step 6: learn the mixing coefficients. All other weights are frozen."""

from pathlib import Path

from xft.artifacts.manifest import hash_file
from xft.cli import training
from xft.config.training import MixingTraining
from xft.training.session import Session, device, say_once


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
    from xft.training.distillation import load_distillation

    sources = mixing_artifact.open_sources(args.moe, args.ffn, request.full)
    initial = mixing_artifact.open_mixing(args.weighted, sources, request.full)
    options = request.options
    session = Session(request, args.moe)
    inputs = {"weighted": initial.artifact.id, **session.data_ids}
    if options.text is not None:
        file = Path(options.text)
        _train_on_text(session, file)
        inputs[options.text_form] = hash_file(file)
    distillation = None
    if options.objective == "kl":
        distillation = load_distillation(args.moe, options.kl_weight, options.precision, device())
    logits = MixingLogits(initial.alpha, initial.lambda_logit, initial.shared_expert_weight)
    moe, ffn = sources.moe.checkpoint, sources.ffn.checkpoint
    mixing = Mixing(moe, ffn, logits, device(), session.weight_dtype)
    with session.trained(mixing.model, request.parameters, inputs, mixing, distillation) as learned:
        if not learned:
            return
        step.inputs |= sources.artifacts | inputs
        with step.draft(initial.config | request.parameters) as draft:
            mixing_artifact.write(draft, logits.tensors(), initial.config)


def _train_on_text(session: Session, file: Path) -> None:
    """Train on the windows of a file of texts in place of the rows. Held-out rows stay."""
    from xft.data.texts import read_texts, window_texts

    texts = read_texts(file)
    windows = window_texts(texts, session.tokenizer, session.request.tokens.max_length)
    session.examples = windows.training
    say_once(f"{len(session.examples)} windows of {len(texts)} texts of {file}, not the rows")


if __name__ == "__main__":
    training.run("weighted_trained", main)
