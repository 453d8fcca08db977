"""Fetch a set of evaluation problems: HumanEval+ or MBPP+ in a pinned version.

If HUMANEVAL_OVERRIDE_PATH or MBPP_OVERRIDE_PATH names a file, this file is taken as it is.
Otherwise the file comes from EvalPlus's cache or from its release on GitHub, and must have the
pinned SHA-256.
"""

from xft.cli.step import Step, run
from xft.common.errors import UserError
from xft.hub.named_sets import NAMED_SETS
from xft.hub.problem_sets import fetch


def main(argv: list[str] | None = None) -> None:
    step = Step("fetch_problems", __doc__)
    step.add_argument(
        "--dataset", required=True, choices=list(NAMED_SETS), help="The set to fetch."
    )
    step.output("--out", "FILE.jsonl", "The problems.")
    args = step.parse_args(argv)
    if args.out.suffix != ".jsonl":
        raise UserError(f"--out {args.out}: the name of a problem file must end in .jsonl")
    fetch(NAMED_SETS[args.dataset], args.out)


if __name__ == "__main__":
    run("fetch_problems", main)
