"""Makes the table of general abilities: the metrics of each task for all models."""

from collections.abc import Mapping

from xft.reporting.runs import Result
from xft.reporting.tables import mean_text


def lm_eval_table(results: Mapping[Result, dict]):
    """A pandas data frame of texts: task, metric, model, value with its standard error.

    results: contents of the files. The rows of a metric are next to each other, with the models in
    order. If a model has several seeds, there is one row for all seeds: their number, and the mean
    with the standard deviation between them.
    """
    import pandas as pd

    found: dict[tuple[str, str, str], list[dict]] = {}
    for result, content in results.items():
        for task, measured in content["tasks"].items():
            for metric, value in measured["metrics"].items():
                found.setdefault((task, metric, result.subject.label), []).append(value)
    metrics = list(dict.fromkeys(key[:2] for key in found))
    keys = sorted(found, key=lambda key: metrics.index(key[:2]))
    table = pd.DataFrame(keys, columns=["task", "metric", "model"])
    if any(len(seeds) > 1 for seeds in found.values()):
        values = ([measured["value"] for measured in found[key]] for key in keys)
        means = [mean_text(pd.Series(seeds, dtype=float).dropna(), 4) for seeds in values]
        return table.assign(seeds=[len(found[key]) for key in keys], value=means)
    return table.assign(value=[_single(*found[key]) for key in keys])


def _single(measured: dict) -> str:
    if measured["value"] is None:
        return ""
    error = "" if measured["stderr"] is None else f" ± {measured['stderr']:.4f}"
    return f"{measured['value']:.4f}{error}"
