"""Put the results of all evaluations into one table, and compare the models with each other.

The step writes the table as CSV and as Markdown, and prints it. A second CSV file holds the
comparisons.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.manifest import hash_file, manifest_path, read_manifest
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.cli import flags, running
from workflow_scripts.evaluation import lm_eval_result
from workflow_scripts.evaluation.result import backends_note, caveats, read_result
from workflow_scripts.reporting import comparisons, tables
from workflow_scripts.reporting.conclusions import conclusions
from workflow_scripts.reporting.lm_eval import lm_eval_table
from workflow_scripts.reporting.validation_losses import read_losses

KIND = "summary"
COMPARISONS_FILE = "comparisons.csv"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = flags.step_parser("summary", __doc__)
    parser.add_argument(
        "--evals", required=True, nargs="+", type=Path, metavar="FILE", help="Results of step eval."
    )
    parser.add_argument(
        "--losses",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="Losses of the same models on held-out rows, from step validation_loss.",
    )
    parser.add_argument(
        "--lm-eval",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="Results of step lm_eval.",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="The table as CSV. The Markdown file and comparisons.csv are written beside it.",
    )
    args = parser.parse_args(argv)

    if args.out.suffix == ".md":
        parser.error("--out must name the CSV file. The Markdown file is written beside it")

    results = {file: read_result(file) for file in args.evals}
    table = tables.summary_table(results, read_losses(args.losses))
    names = zip(table["model"], table["dataset"], strict=True)
    compared = comparisons.comparison_table(dict(zip(names, results.values(), strict=True)))
    measured = {file: lm_eval_result.read(file) for file in args.lm_eval}
    text = _text(table, list(results.values()), compared, measured)
    comparisons_file, text_file = args.out.with_name(COMPARISONS_FILE), args.out.with_suffix(".md")
    write_whole(args.out, table.to_csv(index=False, float_format="%.1f", lineterminator="\n"))
    write_whole(
        comparisons_file, compared.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    )
    write_whole(text_file, text)
    read = {
        Path(os.path.relpath(file, args.out.parent)).as_posix(): file
        for file in [*args.evals, *args.losses, *args.lm_eval]
    }
    inputs = {name: hash_file(file) for name, file in read.items()}
    recipe = make_recipe("summary", {}, {name: _origin(file) for name, file in read.items()})
    beside = [comparisons_file, text_file]
    write_manifest(args.out, KIND, inputs=inputs, beside=beside, recipe=recipe)
    print(text, end="")


def _origin(file: Path) -> str:
    """The origin of a result for the recipe: that of its manifest, or its SHA-256 without one."""
    manifest = manifest_path(file)
    return read_manifest(manifest).origin if manifest.exists() else hash_file(file)


def _text(table, results: list[dict], compared, measured: dict[Path, dict]) -> str:
    """The summary's text. table, compared: data frames. measured: results of lm_eval, by file."""
    parts = [tables.to_markdown(tables.readable(table)), tables.legend(results)]
    parts.append(tables.list_files(table))
    if len(compared):
        parts.append(tables.to_markdown(comparisons.readable_comparisons(compared)))
        parts += [comparisons.legend(results), conclusions(compared)]
    if measured:
        parts.append(tables.to_markdown(lm_eval_table(measured)))
    notes = dict.fromkeys(note for result in results for note in caveats(result))
    backends = [result["settings"].get("backend", "transformers") for result in results]
    notes |= dict.fromkeys(backends_note(dict(zip(table["model"], backends, strict=True))))
    return "\n".join([*parts, *notes]).rstrip() + "\n"


if __name__ == "__main__":
    running.run("summary", main)
