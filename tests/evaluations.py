"""Files that look like results of evaluations, and tables of runs that name them."""

import json
from pathlib import Path

from xft.common.file_access import write_whole
from xft.evaluation.generation import Completion, generate
from xft.reporting.run_table import RunRow, write_runs

STATUSES = "failed", "passed"


def write_table(file: Path, rows) -> Path:
    """Write a table of runs. rows: for each the columns; absolute paths of files may be given."""
    write_whole(file, write_runs(RunRow(**row) for row in rows))
    return file


def write_evaluation(
    file, *, base, plus, count=164, dataset="d", families=("T",), model="m", about=(), **settings
) -> Path:
    """An evaluation in which the first problems are solved. families: of the problems, in turn.

    about: more of what the result says of the data set.
    """
    of_set = {"name": dataset, "file": "f", "sha256": "0", "form": "calls", "problems": count}
    of_set["extra_tests"] = True
    row = {"sample": 0, "failed_call": None, "finish": "eos"}
    result = {
        "format": 2,
        "model": {"path": model, "id": None},
        "dataset": of_set | dict(about),
        "settings": {"backend": "transformers"} | settings,
        "versions": {"torch": "2.0"},
        "passed": {"base": base, "plus": plus},
        "pass@1": {"base": base / count, "plus": plus / count},
        "problems": [
            row
            | {"task_id": f"{families[i % len(families)]}/{i}"}
            | {"base": STATUSES[i < base], "plus": STATUSES[i < plus]}
            for i in range(count)
        ],
    }
    write_whole(file, json.dumps(result))
    return file


def completions(*args, **options) -> list[Completion]:
    """What `generate` gives, in the order of the prompts."""
    found = dict(generate(*args, **options))
    return [found[number] for number in sorted(found)]
