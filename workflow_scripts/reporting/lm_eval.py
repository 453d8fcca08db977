"""Makes the table of general abilities: the metrics of each task for all models."""

from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.evaluation.lm_eval_result import KIND
from workflow_scripts.reporting.subjects import Names, subject


def lm_eval_table(results: Mapping[Path, dict], names: Names):
    """A pandas data frame of texts: task, metric, model, value with its standard error.

    results: by their files. The rows of a metric are next to each other, with the models in order.
    """
    import pandas as pd

    rows = {}
    for file, result in results.items():
        model = names.label(subject(file, result["model"]["path"], KIND))
        for task, content in result["tasks"].items():
            for metric, measured in content["metrics"].items():
                row = {"task": task, "metric": metric, "model": model, "value": _text(measured)}
                rows.setdefault((task, metric), []).append(row)
    return pd.DataFrame([row for group in rows.values() for row in group])


def _text(measured: dict) -> str:
    if measured["value"] is None:
        return ""
    error = "" if measured["stderr"] is None else f" ± {measured['stderr']:.4f}"
    return f"{measured['value']:.4f}{error}"
