"""A baseline: tune the dense base as experts that are fused in every forward pass (ExFusion).

A step costs about as much as one of step sft, and needs the memory of all experts. The result is
dense.
"""

from functools import partial

from xft.cli import training
from xft.config.sections import ExfusionConfig
from xft.training.session import Session


def main(argv: list[str] | None = None) -> None:
    step = training.TrainingStep("exfusion", __doc__)
    step.artifact("--base", "The dense model.")
    step.output("--out", "DIR", "The tuned dense model.")
    args = step.parse_args(argv)
    request = step.request(ExfusionConfig)
    base = step.open("base", args.base, "base", "dense")

    from xft.reporting.cards import origin, plain_card
    from xft.training.fusion import Fusion
    from xft.training.tuning import tune

    session = Session(request, base.path)
    fuse = partial(Fusion, options=request.options, seed=request.run.seed)
    make_card = partial(plain_card, "exfusion")
    tune(session, base, step.inputs, origin(base), make_card, adapt=fuse)


if __name__ == "__main__":
    training.run("exfusion", main)
