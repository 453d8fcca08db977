"""Merge the dense model that passed most problems again, if the models were not kept."""

from pathlib import Path

from workflow_scripts import dense
from workflow_scripts.cli import flags, running
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import say
from workflow_scripts.evaluation.result import TEST_NAMES, best_result, read_result


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("best", __doc__)
    parser.add_argument(
        "--evals",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="The result of each model.",
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
    if len(args.evals) != len(args.weighted):
        raise UserError(
            f"--evals names {len(args.evals)} results and --weighted {len(args.weighted)} sets of "
            "coefficients. Give one of each for every model"
        )
    best = best_result(args.evals)
    solved = read_result(args.evals[best])["pass@1"]["plus"]
    say(f"{args.weighted[best]}, pass@1 {solved:.1%} on {TEST_NAMES['plus']}")
    sources = ["--moe", str(args.moe), "--ffn", str(args.ffn)]
    dense.main([*sources, "--weighted", str(args.weighted[best]), "--out", str(args.out)])


if __name__ == "__main__":
    running.run("best", main)
