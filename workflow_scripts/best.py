"""Merge the best dense model again, if the models were not kept."""

import shlex
from pathlib import Path

from workflow_scripts import dense
from xft.cli import flags, running
from xft.common.errors import UserError
from xft.common.progress import say
from xft.reporting.choice import best_merge


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("best", __doc__)
    measured = parser.add_mutually_exclusive_group(required=True)
    measured.add_argument(
        "--losses",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="The loss of each model on held-out rows. The lowest is the best.",
    )
    measured.add_argument(
        "--evals",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="The evaluation of each model. The most solved problems are the best.",
    )
    parser.add_argument(
        "--weighted",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help="The mixing coefficients of each model, in the same order.",
    )
    flags.add_path(parser, "--moe", "DIR", "The tuned mixture.")
    flags.add_path(parser, "--ffn", "DIR", "The FFN weights of its experts.")
    flags.add_path(parser, "--out", "DIR", "The dense model.")
    parser.add_argument(
        "--options",
        action="append",
        metavar="FLAGS",
        help="The further flags of step dense for each model, once for each, in the same order. "
        "Default: none.",
    )
    args = parser.parse_args(argv)
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
