"""Put the results of evaluations into one table, written as CSV and Markdown and printed."""

from collections.abc import Sequence
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.evaluation.result import caveats, read_result
from workflow_scripts.reporting.files import write_whole
from workflow_scripts.reporting.tables import readable, summary_table, to_markdown

PATH_COLUMNS = ["model folder", "eval file"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = cli.step_parser("summary", __doc__)
    parser.add_argument(
        "--evals", required=True, nargs="+", type=Path, metavar="FILE", help="Results of eval."
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="Table as CSV; the Markdown file stands beside it.",
    )
    args = parser.parse_args(argv)

    if args.out.suffix == ".md":
        parser.error("--out names the CSV file, not the Markdown file")

    results = {file: read_result(file) for file in args.evals}
    table = summary_table(results)
    notes = dict.fromkeys(note for result in results.values() for note in caveats(result))
    shown = readable(table)
    write_whole(args.out, table.to_csv(index=False, float_format="%.1f", lineterminator="\n"))
    markdown = to_markdown(shown.join(table[PATH_COLUMNS]))
    write_whole(args.out.with_suffix(".md"), "\n\n".join([markdown.rstrip(), *notes]) + "\n")
    print("\n\n".join([shown.to_string(index=False), *notes]))


if __name__ == "__main__":
    cli.run("summary", main)
