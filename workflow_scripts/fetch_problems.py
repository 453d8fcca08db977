"""Fetch a named set of evaluation problems, HumanEval+ or MBPP+ in a pinned version, as a file.

The file that HUMANEVAL_OVERRIDE_PATH or MBPP_OVERRIDE_PATH names is taken as it is. Without that,
EvalPlus's cache or its release on GitHub is, with the pinned SHA-256 only.
"""

from workflow_scripts.cli import flags, running
from workflow_scripts.common.errors import UserError
from workflow_scripts.hub.named_sets import NAMED_SETS
from workflow_scripts.hub.problem_sets import fetch


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("fetch_problems", __doc__)
    parser.add_argument("--dataset", required=True, choices=list(NAMED_SETS), help="What to fetch.")
    flags.add_path(parser, "--out", "FILE.jsonl", "The problems.")
    args = parser.parse_args(argv)
    if args.out.suffix != ".jsonl":
        raise UserError(f"--out {args.out}: the name of a file of problems ends in .jsonl")
    fetch(NAMED_SETS[args.dataset], args.out)


if __name__ == "__main__":
    running.run("fetch_problems", main)
