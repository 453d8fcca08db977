"""Merge the best dense model again, if the models were not kept."""

from pathlib import Path

from workflow_scripts import dense
from workflow_scripts.cli import flags, running
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import say
from workflow_scripts.reporting.choice import best_merge


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
    args = parser.parse_args(argv)
    files, by = (args.losses, "validation") if args.losses else (args.evals, "benchmark")
    if len(files) != len(args.weighted):
        raise UserError(
            f"there are {len(files)} results and {len(args.weighted)} sets of coefficients. Give "
            "one of each for every model"
        )
    best = best_merge(files, by)
    say(f"{args.weighted[best]}, chosen by {files[best]}")
    sources = ["--moe", str(args.moe), "--ffn", str(args.ffn)]
    dense.main([*sources, "--weighted", str(args.weighted[best]), "--out", str(args.out)])


if __name__ == "__main__":
    running.run("best", main)
