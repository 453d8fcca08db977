"""Merge the best dense model again, if the models were not kept."""

import json
import shlex

from workflow_scripts import dense
from xft.cli import running
from xft.cli.step import Step
from xft.common.errors import UserError
from xft.common.progress import say
from xft.reporting.choice import best_merge


def main(argv: list[str] | None = None) -> None:
    step = Step("best", __doc__)
    measured = step.add_mutually_exclusive_group(required=True)
    several = {"required": False, "nargs": "+", "group": measured}
    losses = "The loss of each model on held-out rows. The lowest is the best."
    step.path("--losses", "FILE", losses, **several)
    evals = "The evaluation of each model. The most solved problems are the best."
    step.path("--evals", "FILE", evals, **several)
    coefficients = "The mixing coefficients of each model, in the same order."
    step.path("--weighted", "DIR", coefficients, nargs="+")
    step.path("--moe", "DIR", "The tuned mixture.")
    step.path("--ffn", "DIR", "The FFN weights of its experts.")
    step.output("--out", "DIR", "The dense model.")
    step.add_argument(
        "--options",
        type=json.loads,
        metavar="JSON",
        help="The further flags of step dense for each model, a list of texts in the same order. "
        "Default: none.",
    )
    args = step.parse_args(argv)
    files, by = (args.losses, "validation") if args.losses else (args.evals, "benchmark")
    options = args.options or [""] * len(files)
    if not len(files) == len(args.weighted) == len(options):
        raise UserError(
            f"there are {len(files)} results, {len(args.weighted)} sets of coefficients and "
            f"{len(options)} sets of options. Give one of each for every model"
        )
    best = best_merge(files, by)
    say(f"{args.weighted[best]}, chosen by {files[best]}")
    sources = ["--moe", str(args.moe), "--ffn", str(args.ffn)]
    places = ["--weighted", str(args.weighted[best]), "--out", str(args.out)]
    dense.main([*sources, *places, *shlex.split(options[best])])


if __name__ == "__main__":
    running.run("best", main)
