"""What `evalplus.evaluate --samples` takes: the solutions of problems in EvalPlus's form."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from xft.common.file_access import write_whole
from xft.reporting.exports.evaluations import Evaluation

KEYS = ("task_id", "solution")


def export(evaluations: Sequence[Evaluation], out: Path) -> Iterator[Path]:
    """Write `MODEL/DATASET/samples.jsonl`."""
    for evaluation in evaluations:
        if evaluation.content["dataset"].get("form", "calls") == "calls":
            file = out / evaluation.model / evaluation.dataset / "samples.jsonl"
            rows = ({key: row[key] for key in KEYS} for row in evaluation.samples)
            write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
            yield file
