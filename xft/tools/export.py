"""Write the evaluations of a results folder in the form of other software.

docs/evaluation.md explains the forms.
"""

import sys
from pathlib import Path

from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.reporting.exports import FORMS, missing_evaluations, read_evaluations


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft export", __doc__)
    parser.path("results", "RESULTS", "The results_dir of a run.", shared=True)
    parser.add_argument("--to", choices=FORMS, required=True, help="The form.")
    out = "A new or empty folder for the files. Default: export."
    parser.output("--out", "DIR", out, required=False, default=Path("export"))
    args = parser.parse_args(argv)
    files = list(FORMS[args.to](list(read_evaluations(args.results)), args.out))
    for missing in missing_evaluations(args.results):
        print(f"Not finished, and left out: {missing}", file=sys.stderr)
    if not files:
        raise UserError(f"{args.results} has no finished evaluation that --to {args.to} takes")
    print("\n".join(map(str, files)))
