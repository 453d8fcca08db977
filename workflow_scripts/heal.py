"""Tune the merged model itself, after the merge, on a share of the rows.

With objective kl it learns the distribution of the tuned mixture, --teacher, too.
"""

import argparse
from functools import partial
from pathlib import Path

from xft.artifacts.artifact import Artifact, open_artifact
from xft.cli import flags, training
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.sections import HealConfig
from xft.training.session import Session, device, is_main_process


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("heal", __doc__)
    flags.add_path(parser, "--model", "DIR", "The merged model.")
    parser.add_argument(
        "--teacher", type=Path, metavar="DIR", help="The tuned mixture, for objective kl."
    )
    flags.add_path(parser, "--out", "DIR", "The tuned merged model.")
    training.add_flags(parser, HealConfig)
    args = parser.parse_args(argv)
    request = training.read_request("heal", args, HealConfig)
    _check_teacher(args, request.options)
    model = open_artifact(args.model, "dense", full=request.full)
    sources = {"dense": model}
    if args.teacher is not None:
        sources["moe"] = _open_teacher(args.teacher, model, request.full)

    from xft.reporting.cards import heal_card
    from xft.training.distillation import load_distillation
    from xft.training.tuning import tune

    options, base, distillation = request.options, {}, None
    session = Session(request, model.path)
    session.examples = session.examples.drawn(options.share, request.seed)
    if is_main_process():
        say(f"{len(session.examples)} of these rows are trained on")
    if args.teacher is not None:
        base = sources["moe"].manifest.parameters.get("base", {})
        distillation = load_distillation(
            args.teacher, options.kl_weight, options.precision, device()
        )
    tune(session, model, sources, base, partial(heal_card, model), distillation)


def _check_teacher(args: argparse.Namespace, options: HealConfig) -> None:
    """Raise UserError unless there is a teacher for objective kl, and only for it."""
    if options.objective == "kl" and args.teacher is None:
        raise UserError(
            "objective = kl: the model learns from the tuned mixture. Name its folder in --teacher"
        )
    if options.objective == "ce" and args.teacher is not None:
        raise UserError(
            f"--teacher {args.teacher}: with objective = ce nothing is learned from it. Set "
            "objective = kl, or leave out --teacher"
        )


def _open_teacher(folder: Path, model: Artifact, full: bool) -> Artifact:
    """Open the mixture. Raises UserError if the model was not merged from it."""
    from xft.data.tokens_artifact import tokenizer_hashes

    teacher = open_artifact(folder, "moe", "moe_sft", full=full)
    if model.manifest.inputs.get("moe", teacher.id) != teacher.id:
        raise UserError(f"{model.path} was not merged from {folder} but from another mixture")
    if tokenizer_hashes(folder) != tokenizer_hashes(model.path):
        raise UserError(
            f"{folder} has another tokenizer than {model.path}, so its distribution is over other "
            "tokens. Name the mixture that the model was merged from"
        )
    return teacher


if __name__ == "__main__":
    training.run("heal", main)
