"""Tune the merged model itself, after the merge, on a share of the rows.

With objective kl it learns the distribution of the tuned mixture, --teacher, too.
"""

from functools import partial

from xft.artifacts.artifact import OpenedArtifact
from xft.artifacts.manifest import short
from xft.cli import training
from xft.common.errors import UserError
from xft.config.sections import HealConfig
from xft.training.session import Session
from xft.training.this_process import say_once


def main(argv: list[str] | None = None) -> None:
    step = training.TrainingStep("heal", __doc__)
    step.artifact("--model", "The merged model.")
    step.artifact("--teacher", "The tuned mixture, for objective kl.", required=False)
    step.output("--out", "DIR", "The tuned merged model.")
    args = step.parse_args(argv)
    request = step.request(HealConfig)
    if (request.options.objective == "kl") != (args.teacher is not None):
        raise UserError(
            "--teacher is the tuned mixture, from which the model learns with objective = kl. Give "
            "both of them, or neither"
        )
    model = step.open("dense", args.model, "dense")
    if args.teacher is not None:
        teacher = step.open("moe", args.teacher, "moe", "moe_sft")
        _check_origin(teacher, model)

    from xft.reporting.cards import plain_card
    from xft.training.distillation import load_distillation
    from xft.training.tuning import tune

    session = Session(request, model.path)
    session.examples = session.examples.drawn(request.options.share, request.run.seed)
    say_once(f"{len(session.examples)} of these rows are trained on")
    distillation = load_distillation(args.teacher, request.options)
    base = teacher.manifest.parameters.get("base", {}) if distillation else {}
    merged = {"merged": short(model.id), "merge": model.manifest.parameters}
    tune(session, model, step.inputs, base, partial(plain_card, "heal", **merged), distillation)


def _check_origin(teacher: OpenedArtifact, model: OpenedArtifact) -> None:
    """Raise UserError if the model was not merged from the mixture."""
    from xft.data.tokenizers import tokenizer_identity

    if model.manifest.inputs.get("moe", teacher.id) != teacher.id:
        raise UserError(f"{model.path} was not merged from {teacher.path} but from another mixture")
    if tokenizer_identity(teacher.path) != tokenizer_identity(model.path):
        raise UserError(
            f"{teacher.path} has another tokenizer than {model.path}, so its distribution is over "
            "other tokens. Name the mixture that the model was merged from"
        )


if __name__ == "__main__":
    training.run("heal", main)
