"""Makes the table of general abilities: the metrics of each task for all models."""

from collections.abc import Mapping, Sequence

from xft.reporting.runs import Result
from xft.reporting.tables import mean_text


def lm_eval_table(results: Mapping[Result, dict]):
    """A pandas data frame of texts: task, metric, model, value with its standard error.

    results: contents of the files. The rows of a metric are next to each other, with the models in
    order. If a model has several seeds, there is one row for all seeds: their number, and the mean
    with the standard deviation between them.
    """
    import pandas as pd

    measured: dict[tuple, dict[str, list[dict]]] = {}
    for found, result in results.items():
        for task, content in result["tasks"].items():
            for metric, value in content["metrics"].items():
                of_metric = measured.setdefault((task, metric), {})
                of_metric.setdefault(found.subject.label, []).append(value)
    rows = [
        {"task": task, "metric": metric, "model": model, "seeds": len(seeds), "value": seeds}
        for (task, metric), models in measured.items()
        for model, seeds in models.items()
    ]
    table = pd.DataFrame(rows, columns=["task", "metric", "model", "seeds", "value"])
    if (table["seeds"] > 1).any():
        return table.assign(value=table["value"].map(_mean))
    return table.assign(value=table["value"].map(_single)).drop(columns="seeds")


def _single(seeds: Sequence[dict]) -> str:
    (measured,) = seeds
    if measured["value"] is None:
        return ""
    error = "" if measured["stderr"] is None else f" ± {measured['stderr']:.4f}"
    return f"{measured['value']:.4f}{error}"


def _mean(seeds: Sequence[dict]) -> str:
    import pandas as pd

    values = [measured["value"] for measured in seeds if measured["value"] is not None]
    return mean_text(pd.Series(values, dtype=float), 4)
