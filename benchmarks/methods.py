"""Compares each method of a results folder with each baseline, in losses and in pass@1.

    python -m benchmarks.methods results/fair-seeds --baselines 'sft' 'sft (sft_ema)' 'soup' \
        --methods 'dense 0.75 (published)' 'uniform 0.125 (random)'

A workflow compares a model with the references of its own variant. Here all given pairs are
compared, and Holm's correction is for all of them: for losses and for pass@1 apart.
"""

import argparse
from itertools import product
from pathlib import Path

from xft.reporting.comparisons import LOSSES, SCORES, comparison_table, difference_rows
from xft.reporting.run_table import LOSS_TESTS, read_runs
from xft.reporting.summaries import Summary, to_markdown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="DIR")
    parser.add_argument("--baselines", nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--methods", nargs="+", required=True, metavar="MODEL")
    args = parser.parse_args()
    summary = Summary(read_runs(args.results / "runs.csv"))
    values = [result.values("plus") for result in summary.evaluations]
    values += [result.values(LOSS_TESTS) for result in summary.losses]

    def pairs(subjects):
        by_label = {subject.label: subject for subject in subjects}
        unknown = {*args.baselines, *args.methods} - by_label.keys()
        if unknown:
            parser.error(f"no model {', '.join(sorted(unknown))}: there are {', '.join(by_label)}")
        for baseline, method in product(args.baselines, args.methods):
            yield by_label[baseline], by_label[method]

    table = comparison_table(values, pairs)
    for quantity in (LOSSES, SCORES):
        rows = table[table["tests"] == quantity.tests]
        print(f"\n{quantity.name}\n\n{to_markdown(list(difference_rows(quantity, rows)))}")


if __name__ == "__main__":
    main()
