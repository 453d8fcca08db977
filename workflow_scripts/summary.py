"""Put the results of all evaluations into one table, and compare the models with each other.

The step writes the table as CSV and as Markdown, and prints it. A second CSV file holds the
comparisons.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import hash_file, manifest_path, read_manifest
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.evaluation import lm_eval_result
from xft.evaluation.result import (
    backends_note,
    caveats,
    common_caveats,
    read_result,
)
from xft.reporting import notes, tables
from xft.reporting.comparisons import (
    ROWS,
    Results,
    by_subject,
    comparison_table,
    loss_table,
    with_losses,
)
from xft.reporting.conclusions import comparisons_text
from xft.reporting.diversity import read_diversity
from xft.reporting.lm_eval import lm_eval_table
from xft.reporting.spreads import OWN, spreads_table, spreads_text
from xft.reporting.subjects import (
    Names,
    Subject,
    check_distinct,
    subject,
    with_own_seed,
)
from xft.reporting.validation_losses import loss_subject, losses_of, read_losses

KIND = "summary"
COMPARISONS_FILE = "comparisons.csv"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = flags.step_parser("summary", __doc__)
    parser.fromfile_prefix_chars = "@"
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
        "--diversity",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="How far the experts of the tuned mixtures lie apart, from step diversity.",
    )
    parser.add_argument(
        "--own-seed",
        type=int,
        metavar="N",
        help="The seed of the results whose path names none.",
    )
    parser.add_argument(
        "--variant",
        nargs="*",
        default=[],
        metavar="NAME=PREFIX",
        help="Names of variants. PREFIX: the folders above eval/ that name the variant's keys and "
        "values, without the seed, such as moe.shared_expert~false/.",
    )
    parser.add_argument(
        "--uncleaned",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="Those of --evals whose model learned from rows that were not cleaned of the "
        "problems.",
    )
    parser.add_argument(
        "--chosen-by",
        choices=notes.CHOICES,
        help="What the best of a mixture's merges is chosen by: the loss on held-out rows, or the "
        "benchmark. Default: the loss, if losses are given.",
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

    shown = _read(args)
    text = _text(shown)
    comparisons_file, text_file = args.out.with_name(COMPARISONS_FILE), args.out.with_suffix(".md")
    write_whole(args.out, _csv(shown.table, 1))
    write_whole(comparisons_file, _csv(shown.comparisons, 4))
    write_whole(text_file, text)
    read = {
        _relative(file, args.out): file
        for file in [*args.evals, *args.losses, *args.lm_eval, *args.diversity]
    }
    inputs = {name: hash_file(file) for name, file in read.items()}
    options = {
        "own_seed": args.own_seed,
        "variant": args.variant,
        "uncleaned": [_relative(file, args.out) for file in args.uncleaned],
        "chosen_by": args.chosen_by,
    }
    recipe = make_recipe("summary", options, {name: _origin(file) for name, file in read.items()})
    beside = [comparisons_file, text_file]
    write_manifest(args.out, KIND, inputs=inputs, beside=beside, recipe=recipe)
    print(text, end="")


def _relative(file: Path, out: Path) -> str:
    """The path of a result in the folder of the summary."""
    return Path(os.path.relpath(file, out.parent)).as_posix()


def _csv(table, digits: int) -> str:
    return table.to_csv(index=False, float_format=f"%.{digits}f", lineterminator="\n")


def _origin(file: Path) -> str:
    """The origin of a result for the recipe: that of its manifest, or its SHA-256 without one."""
    manifest = manifest_path(file)
    return read_manifest(manifest).origin if manifest.exists() else hash_file(file)


@dataclass(frozen=True)
class Shown:
    """What the summary shows.

    results, subjects: of the evaluations. losses: by evaluation. table, comparisons: data frames
    for the CSV files. measured: results of lm_eval. diversity: by the name of the mixture. chosen,
    uncleaned: texts.
    """

    results: dict[Path, dict]
    subjects: dict[Path, Subject]
    names: Names
    losses: dict[Path, float]
    table: object
    comparisons: object
    measured: dict[Path, dict]
    diversity: dict[str, dict]
    chosen: str
    uncleaned: str

    @property
    def has_seeds(self) -> bool:
        """Whether there are results of several seeds of a model."""
        models = {one.unseeded for one in self.subjects.values()}
        return len(models) < len(set(self.subjects.values()))


def _read(args: argparse.Namespace) -> Shown:
    names = Names(args.variant)
    results = {file: read_result(file) for file in args.evals}
    contents = read_losses(args.losses)
    losses = losses_of(results, contents)
    subjects = [subject(file, result["model"]["path"]) for file, result in results.items()]
    subjects = with_own_seed(subjects, args.own_seed)
    about = dict(zip(results, subjects, strict=True))
    datasets = [result["dataset"]["name"] for result in results.values()]
    check_distinct(dict(zip(results, zip(subjects, datasets, strict=True), strict=True)))
    notes.check_evaluated("--uncleaned", args.uncleaned, results)
    chosen_by = args.chosen_by or ("validation" if losses else "benchmark")
    compared = comparison_table(by_subject(subjects, datasets, results.values()), names)
    spreads = read_diversity(args.diversity)
    mixtures = with_own_seed([subject(file, above=None) for file in spreads], args.own_seed)
    mixtures = [names.label(mixture) or OWN for mixture in mixtures]
    return Shown(
        results,
        about,
        names,
        losses,
        tables.summary_table(results, subjects, names, losses),
        with_losses(compared, loss_table(_losses_by_subject(contents, args.own_seed), names)),
        {file: lm_eval_result.read(file) for file in args.lm_eval},
        dict(zip(mixtures, spreads.values(), strict=True)),
        notes.chosen_text(chosen_by, results, about, names, losses),
        notes.uncleaned_text(args.uncleaned, results, about, names),
    )


def _losses_by_subject(contents: dict[Path, dict], own_seed: int | None) -> Results:
    """The losses by model and seed."""
    subjects = [loss_subject(file, content) for file, content in contents.items()]
    return by_subject(with_own_seed(subjects, own_seed), [ROWS] * len(subjects), contents.values())


def _text(shown: Shown) -> str:
    """The summary's text."""
    results, names = list(shown.results.values()), shown.names
    has_variants = tables.has_variants(shown.subjects.values())
    parts = [*_scores(shown), *comparisons_text(shown.comparisons, results, has_variants)]
    parts.append(shown.chosen)
    if shown.diversity:
        parts.append(tables.to_markdown(spreads_table(shown.diversity)))
        parts.append(spreads_text(shown.diversity))
    if shown.measured:
        parts.append(tables.to_markdown(lm_eval_table(shown.measured, names)))
    parts.append(shown.uncleaned)
    remarks = [note for result in results for note in caveats(result)]
    backends = [result["settings"].get("backend", "transformers") for result in results]
    models = [names.label(one.unseeded) for one in shown.subjects.values()]
    remarks = common_caveats(results) if shown.has_seeds else remarks
    remarks += backends_note(dict(zip(models, backends, strict=True)))
    return "\n".join([*filter(None, parts), *dict.fromkeys(remarks)]).rstrip() + "\n"


def _scores(shown: Shown) -> list[str]:
    """The table of scores, with one row for all seeds of a model, and what explains it."""
    subjects = shown.subjects.values()
    if shown.has_seeds:
        labels = [shown.names.label(one.unseeded) for one in subjects]
        table = tables.over_seeds(shown.table.assign(model=labels))
        return [tables.to_markdown(table), tables.SEEDS_LEGEND]
    table = shown.table.assign(model=[shown.names.label(one) for one in subjects])
    legend = tables.legend(list(shown.results.values()))
    return [tables.to_markdown(tables.readable(table)), legend, tables.list_files(table)]


if __name__ == "__main__":
    running.run("summary", main)
