"""Fetch a set of evaluation problems in a pinned version.

HumanEval+ and MBPP+: if HUMANEVAL_OVERRIDE_PATH or MBPP_OVERRIDE_PATH names a file, this file is
taken as it is. Otherwise the file comes from EvalPlus's cache or from its release on GitHub, and
must have the pinned SHA-256. MultiPL-E's sets come from the hub at a pinned revision.
"""

from pathlib import Path

from xft.cli.step import Step, run
from xft.common.errors import UserError
from xft.hub.named_sets import NAMED_SETS, fetch


def main(argv: list[str] | None = None) -> None:
    step = Step("fetch_problems", __doc__)
    step.add_argument("--dataset", required=True, choices=[*NAMED_SETS], help="The set to fetch.")
    step.output("--out", "FILE", "The problems: .jsonl, or .parquet for sets of MultiPL-E.")
    args = step.parse_args(argv)
    chosen = NAMED_SETS[args.dataset]
    suffix = Path(chosen.file).suffix
    if args.out.suffix != suffix:
        raise UserError(f"--out {args.out}: the name of the file of {chosen} must end in {suffix}")
    fetch(chosen, args.out)


if __name__ == "__main__":
    run("fetch_problems", main)
