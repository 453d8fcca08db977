"""Reads the evaluations of a results folder, with all that a model wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xft.artifacts.manifest import MANIFEST_SUFFIX
from xft.common.json_files import read_json_objects
from xft.evaluation.result import RESULT
from xft.evaluation.samples import samples_path
from xft.reporting.page.files import is_own, own_files
from xft.reporting.runs import read_runs, results_of


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on a set of problems.

    folder: where the model is, if it was kept.
    model: its place in the results folder.
    content: of the result's file.
    samples: the rows of its generations.
    """

    folder: Path
    model: str
    content: dict
    samples: list[dict]

    @property
    def dataset(self) -> str:
        return self.content["dataset"]["name"]


def read_evaluations(results: Path) -> Iterator[Evaluation]:
    """The finished evaluations of a results folder. Raises UserError if a file is broken."""
    for file in own_files(results, "**/eval/**/*.json"):
        samples = samples_path(file)
        if not file.name.endswith(MANIFEST_SUFFIX) and is_own(results, samples):
            place = file.parent.relative_to(results)
            model = Path(*(part for part in place.parts if part != "eval"))
            content, rows = RESULT.read(file), read_json_objects(samples)
            yield Evaluation(results / model, str(model), content, rows)


def missing_evaluations(results: Path) -> list[str]:
    """The evaluations that a run has not finished, in words."""
    table = results / "runs.csv"
    rows = read_runs(table) if is_own(results, table) else ()
    missing = [item for item in results_of(rows, "eval") if not is_own(results, item.file)]
    seeds = ["" if item.seed is None else f", seed {item.seed}" for item in missing]
    return [
        f"{item.subject.label} on {item.row.dataset}{seed}"
        for item, seed in zip(missing, seeds, strict=True)
    ]
