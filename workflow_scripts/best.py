"""Keep the best of some merged models, by links to its files."""

from xft.artifacts.artifact import create_artifact
from xft.cli.step import Step, run
from xft.common.errors import UserError
from xft.common.progress import say
from xft.reporting.notes import best_merge


def main(argv: list[str] | None = None) -> None:
    step = Step("best", __doc__)
    measured = step.add_mutually_exclusive_group(required=True)
    several = {"required": False, "nargs": "+", "group": measured}
    losses = "The loss of each model on validation rows. The lowest is the best."
    step.path("--losses", "FILE", losses, **several)
    evals = "The evaluation of each model. The most solved problems are the best."
    step.path("--evals", "FILE", evals, **several)
    step.artifact("--models", "The merged models, in the same order.", nargs="+")
    step.output("--out", "DIR", "The best of them.")
    args = step.parse_args(argv)
    files, by = (args.losses, "validation") if args.losses else (args.evals, "benchmark")
    if len(files) != len(args.models):
        raise UserError(
            f"there are {len(files)} results and {len(args.models)} models. Give one result for "
            "every model"
        )
    number = best_merge(files, by)
    best = step.open("dense", args.models[number], "dense")
    say(f"{best.path}, chosen by {files[number]}")
    known = best.manifest
    with create_artifact(args.out, known.kind, known.parameters, known.inputs) as draft:
        draft.link_files(best)


if __name__ == "__main__":
    run("best", main)
