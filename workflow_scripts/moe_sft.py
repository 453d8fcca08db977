"""Step 2: tune the mixture on instructions: all parameters, or those of LoRA experts."""

from functools import partial

from xft.cli.training_step import TrainingStep, run
from xft.common.optional import require
from xft.config.sections import MoeSftTraining
from xft.training.at_end import noise_at_end
from xft.training.ranks import say_once
from xft.training.session import Session


def main(argv: list[str] | None = None) -> None:
    step = TrainingStep("moe_sft", __doc__)
    step.artifact("--moe", "The mixture.")
    step.output("--out", "DIR", "The tuned mixture.")
    args = step.parse_args(argv)
    request = step.request(MoeSftTraining)
    moe = step.open("moe", args.moe, "moe")

    if moe.checkpoint.config.get("experts") == "lora":
        require(f"train_rest = {moe.checkpoint.config['train_rest']}")

    from xft.reporting.cards import mixture_card
    from xft.training.tuning import adapt_mixture, tune

    known = moe.manifest.parameters
    make_card = partial(mixture_card, start=known)
    session = Session(request, moe.path)
    tune(session, moe, step.ids, known.get("base", {}), make_card, adapt=adapt_mixture)
    advice = noise_at_end(request.metrics) if request.metrics else None
    if advice is not None:
        say_once(advice)


if __name__ == "__main__":
    run("moe_sft", main)
