"""Makes the table of all evaluations, as data and as Markdown."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.evaluation.result import TEST_NAMES, measures, solved_shares, units_of
from xft.evaluation.scoring import TEST_SETS
from xft.reporting.bootstrap import interval
from xft.reporting.runs import Result
from xft.reporting.verdict import Candidate

LOSS_COLUMN = "validation loss"
NO_TESTS = "-"


def summary_table(results: Mapping[Result, dict], losses: Mapping[Path, Mapping]):
    """A pandas data frame with a row for each evaluation, in order.

    pass@1 and its 95% interval, low to high, are in percent, and passed is the number of samples.
    The table has columns for losses, variants and seeds only if there are any.

    results: contents of the evaluations.
    losses: contents of the files of losses.
    """
    import pandas as pd

    varied = any(
        evaluation.subject.variant or evaluation.seed is not None for evaluation in results
    )
    return pd.DataFrame([_row(*result, losses, varied) for result in results.items()])


def score(result: dict, tests: str) -> dict[str, float]:
    """pass@1 and its 95% interval, low to high, in percent.

    tests: base or plus.
    """
    low, high = interval(solved_shares(result, tests), units_of(result))
    return {"pass@1": 100 * result["pass@1"][tests], "low": 100 * low, "high": 100 * high}


def _row(evaluation: Result, result: dict, losses: Mapping[Path, Mapping], varied: bool) -> dict:
    row = {"model": evaluation.row.model}
    if varied:
        row["variant"] = evaluation.subject.variant
        row["seed"] = "" if evaluation.seed is None else evaluation.seed
    row |= {"dataset": evaluation.row.dataset, "problems": result["dataset"]["problems"]}
    for tests in TEST_SETS:
        row |= {f"{name} {tests}": value for name, value in score(result, tests).items()}
        row[f"passed {tests}"] = result["passed"][tests]
        for measure in measures(result)[1:]:
            row[f"{measure} {tests}"] = 100 * result[measure][tests]
    if losses:
        known = losses.get(evaluation.row.validation_loss)
        row[LOSS_COLUMN] = f"{known['loss']:.4f}" if known else ""
    return row | {"model folder": result["model"]["path"], "eval file": str(evaluation.file)}


def _headings(table) -> dict[str, str]:
    """The headings of pass@1 by set of tests: one alone if no data set has extra tests."""
    names = {tests: f"pass@1, {name}" for tests, name in TEST_NAMES.items()}
    return names if table["has_extra"].any() else {"base": "pass@1"}


def readable(table):
    """The table with one column for each set of tests: percent, its 95% interval, passed.

    table: as for `over_seeds`.
    """
    shown = table[["model", "dataset", "problems"]].copy()
    for tests, heading in _headings(table).items():
        values = table[[f"{name} {tests}" for name in ("pass@1", "low", "high", "passed")]]
        shown[heading] = [
            f"{share:.1f} % ({low:.1f} to {high:.1f}; {passed})"
            for share, low, high, passed in values.itertuples(index=False)
        ]
        if tests == "plus":
            shown.loc[~table["has_extra"], heading] = NO_TESTS
    if LOSS_COLUMN in table:
        shown[LOSS_COLUMN] = table[LOSS_COLUMN]
    return shown


def over_seeds(table):
    """The means over the seeds as texts, one row for each model and data set.

    table: from `summary_table`, with a name in the column `model` that all seeds share, the file
    of the loss in `loss_file`, the content of the evaluation in `result`, and whether the data set
    has extra tests in `has_extra`.
    """
    import pandas as pd

    rows = []
    for (model, dataset), group in table.groupby(["model", "dataset"], sort=False):
        row = {"model": model, "dataset": dataset, "problems": group["problems"].iloc[0]}
        row["seeds"] = len(group)
        for tests, heading in _headings(table).items():
            is_shown = tests == "base" or group["has_extra"].all()
            row[heading] = _score_text(group, tests) if is_shown else NO_TESTS
        if LOSS_COLUMN in group:
            losses = group.drop_duplicates("loss_file")[LOSS_COLUMN]
            row[LOSS_COLUMN] = mean_text(pd.to_numeric(losses).dropna())
        rows.append(row)
    return pd.DataFrame(rows)


def _score_text(group, tests: str) -> str:
    """The mean pass@1 of the seeds, its interval over the problems, and the seeds' deviation.

    The answers of all seeds to a problem are drawn together.
    """
    shares = [share for result in group["result"] for share in solved_shares(result, tests)]
    names = [name for result in group["result"] for name in units_of(result)]
    low, high = (100 * end for end in interval(shares, names))
    values = group[f"pass@1 {tests}"]
    deviation = f"; seeds ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f} % ({low:.1f} to {high:.1f}{deviation})"


def answers_table(candidates: Iterable[Candidate]):
    """The numbers of each model's answers by outcome, over all data sets and seeds."""
    import pandas as pd

    return pd.DataFrame([{"model": model.label, **model.outcomes} for model in candidates])


def mean_text(values) -> str:
    """The mean of a pandas series, and its standard deviation if there are several values."""
    if not len(values):
        return ""
    deviation = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{deviation}"


def to_markdown(table) -> str:
    """A Markdown table of a data frame, without its index and with aligned columns."""
    texts = [[str(cell) for cell in row] for row in (table.columns, *table.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rows = [texts[0], ["-" * width for width in widths], *texts[1:]]
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    )
