"""Put the results of all evaluations into one table, and compare the models with each other.

The step writes the table as CSV, and as Markdown with the verdict in words. It prints the first
lines of the Markdown file. A second CSV file contains the comparisons, and a JSON file the verdict
and the other sentences, which the report shows.
"""

import os

from xft.artifacts.manifest import hash_file, write_manifest
from xft.cli.step import Step, check_apart, run
from xft.common.file_access import write_whole
from xft.reporting.run_table import read_runs
from xft.reporting.summaries import CHOICES, Summary, head

COMPARISONS_FILE = "comparisons.csv"


def main(argv: list[str] | None = None) -> None:
    step = Step("summary", __doc__)
    step.path(
        "--runs",
        "FILE",
        "A CSV table with a row for each model of each run on each data set, which names the files "
        "of its results (docs/evaluation.md).",
    )
    step.add_argument(
        "--chosen-by",
        choices=CHOICES,
        help="What the best of a mixture's merges is chosen by: the validation loss, or the "
        "benchmark. Default: the loss, if losses are given.",
    )
    step.output(
        "--out",
        "FILE",
        "The table as CSV. The Markdown file, the JSON file and comparisons.csv are written beside "
        "it.",
    )
    args = step.parse_args(argv)

    if args.out.suffix in (".md", ".json"):
        step.error("--out must name the CSV file. The other files are written beside it")

    rows = read_runs(args.runs)
    files = list(dict.fromkeys(file for row in rows for file in row.files.values()))
    comparisons_file = args.out.with_name(COMPARISONS_FILE)
    text_file = args.out.with_suffix(".md")
    conclusions_file = args.out.with_suffix(".json")
    beside = [comparisons_file, text_file, conclusions_file]
    read = [("runs", file) for file in (args.runs, *files)]
    for path in (args.out, *beside):
        check_apart(f"--out {args.out}: {path}", path, read)
    summary = Summary(rows)
    text = summary.text(args.chosen_by)
    write_whole(args.out, _csv(summary.table, "%.1f"))
    write_whole(comparisons_file, _csv(summary.comparisons_table))
    write_whole(text_file, text)
    write_whole(conclusions_file, summary.conclusions.to_json())
    inputs = {os.path.relpath(file, args.out.parent): hash_file(file) for file in files}
    write_manifest(args.out, "summary", inputs=inputs, beside=beside)
    print(head(text))


def _csv(table, number: str | None = None) -> str:
    return table.to_csv(index=False, float_format=number, lineterminator="\n")


if __name__ == "__main__":
    run("summary", main)
