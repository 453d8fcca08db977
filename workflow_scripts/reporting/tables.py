"""Makes the table of all evaluations, as data and as Markdown."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from workflow_scripts.evaluation.ground_truth import TEST_SETS
from workflow_scripts.evaluation.result import (
    TEST_NAMES,
    has_several_samples,
    measures,
    solved_shares,
)
from workflow_scripts.reporting.statistics import interval

EVALUATIONS_FOLDER = "eval"
LOSS = "validation loss"


def summary_table(results: Mapping[Path, dict], losses: Mapping[str, float]):
    """A pandas data frame with a row for each result file, in order.

    pass@1 and its 95% interval, low to high, are in percent. passed: the number of samples. losses:
    on held-out rows, by model folder; if there are none, the table has no column for them.
    """
    import pandas as pd

    return pd.DataFrame([_row(file, result, losses) for file, result in results.items()])


def _row(file: Path, result: dict, losses: Mapping[str, float]) -> dict:
    count = result["dataset"]["problems"]
    row = {
        "model": model_name(file, result["model"]["path"]),
        "dataset": result["dataset"]["name"],
        "problems": count,
    }
    for tests in TEST_SETS:
        row[f"pass@1 {tests}"] = 100 * result["pass@1"][tests]
        low, high = interval(solved_shares(result, tests))
        row[f"low {tests}"], row[f"high {tests}"] = 100 * low, 100 * high
        row[f"passed {tests}"] = result["passed"][tests]
        for measure in measures(result)[1:]:
            row[f"{measure} {tests}"] = 100 * result[measure][tests]
    if losses:
        loss = losses.get(result["model"]["path"])
        row[LOSS] = "" if loss is None else f"{loss:.4f}"
    return row | {"model folder": result["model"]["path"], "eval file": str(file)}


def model_name(result_file: Path, model_folder: str, above: str = EVALUATIONS_FOLDER) -> str:
    """The folders between `eval/` (`above`) and a result file: `dense/lam~0.75`.

    If the result file is not below such a folder, the name is that of its model's folder.
    """
    *folders, _ = result_file.parts
    if above not in folders:
        return Path(model_folder).name
    depth = folders[::-1].index(above)
    return "/".join(folders[len(folders) - depth :]) or Path(model_folder).name


def legend(results: Iterable[dict]) -> str:
    """An explanation of the texts of `readable`, in one line."""
    several = any(has_several_samples(result) for result in results)
    drawn = "; with several samples, a bootstrap over the problems" if several else ""
    return f"In brackets: the 95% interval (Wilson's{drawn}), and the number of passed samples.\n"


def readable(table):
    """The table with one column for each set of tests: percent, its 95% interval, passed."""
    shown = table[["model", "dataset", "problems"]].copy()
    for tests in TEST_SETS:
        shown[f"pass@1, {TEST_NAMES[tests]}"] = [
            f"{share:.1f} % ({low:.1f} to {high:.1f}; {passed})"
            for share, low, high, passed in zip(
                *(table[f"{name} {tests}"] for name in ("pass@1", "low", "high", "passed")),
                strict=True,
            )
        ]
    if LOSS in table:
        shown[LOSS] = table[LOSS]
    return shown


def to_markdown(table) -> str:
    """A Markdown table of a data frame, without its index and with aligned columns."""
    texts = [[str(cell) for cell in row] for row in (table.columns, *table.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rows = [texts[0], ["-" * width for width in widths], *texts[1:]]
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    )


def list_files(table) -> str:
    """The paths of each row's model and its evaluation, one line per row."""
    lines = []
    for _, row in table.iterrows():
        folder = row["model folder"]
        place = f"`{folder}`" if Path(folder).exists() else f"`{folder}` (not kept)"
        lines.append(f"- {row['model']}: {place}, evaluated in `{row['eval file']}`\n")
    return "".join(lines)
