"""Write the evaluations of a results folder in the form of other software.

docs/evaluation.md explains the forms.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from xft.artifacts.manifest import MANIFEST_SUFFIX
from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.json_files import read_json_objects
from xft.config.reading import recorded_config, values_to_change
from xft.config.runs import find_runs
from xft.evaluation.result import RESULT, measures, samples_path, solved_shares, tests_of, units_of
from xft.hub.named_sets import BY_LABEL
from xft.reporting.page.folder import is_own, own_files
from xft.reporting.run_table import read_runs, results_of
from xft.reporting.statistics import interval

KEYS = ("task_id", "solution")  # of EvalPlus
CARD = "README.md"
OUR_TAG = "xft"
ROWS = "- instructions: "  # how a card's line on the rows begins
TRAIN = "data.train"


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on a set of problems.

    results: the results folder.
    model: the model's place in it, where the model is if it was kept.
    content: of the result's file.
    samples: the rows of its generations.
    """

    results: Path
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
            yield Evaluation(results, str(model), RESULT.read(file), read_json_objects(samples))


def missing_evaluations(results: Path) -> Iterator[str]:
    """The evaluations that a run has not finished, in words."""
    table = results / "runs.csv"
    rows = read_runs(table) if is_own(results, table) else ()
    for item in results_of(rows, "eval"):
        if not is_own(results, item.file):
            seed = "" if item.seed is None else f", seed {item.seed}"
            yield f"{item.subject.label} on {item.row.dataset}{seed}"


def evalplus(evaluations: Sequence[Evaluation], out: Path) -> Iterator[Path]:
    """Write what `evalplus.evaluate --samples` takes: the solutions of problems in EvalPlus's form.

    Files `MODEL/DATASET/samples.jsonl`.
    """
    for evaluation in evaluations:
        if evaluation.content["dataset"]["form"] == "calls":
            file = out / evaluation.model / evaluation.dataset / "samples.jsonl"
            rows = [{key: sample[key] for key in KEYS} for sample in evaluation.samples]
            write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
            yield file


def model_card(evaluations: Sequence[Evaluation], out: Path) -> Iterator[Path]:
    """The models' cards with a `model-index`, which the hub shows as evaluation results.

    Files `MODEL/README.md` of the models that were kept. The base's card is its maker's. The cards
    in the results folder stay as they are: they were written before the evaluation, and name no
    file of rows, since equal rows give equal models.
    """
    from huggingface_hub import ModelCard

    by_model: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_model.setdefault(evaluation.model, []).append(evaluation)
    for model, of_model in by_model.items():
        results = of_model[-1].results
        given = results / model / CARD
        if not given.is_file():
            continue
        card = ModelCard(given.read_text(encoding="utf-8"))
        if OUR_TAG not in (card.data.tags or ()):
            continue
        card.data.model_name = model
        card.data.eval_results = []
        for evaluation in of_model:
            card.data.eval_results += _values(evaluation)
        rows = ", ".join(_rows_of(results, model))
        card.text = card.text.replace(ROWS, f"{ROWS}{rows}; ", 1)
        written = out / model / CARD
        write_whole(written, str(card))
        yield written


def _rows_of(results: Path, model: str) -> Sequence[str]:
    """The sets or files of rows of a model's run, as the configuration names them."""
    config = recorded_config(results)
    parts = Path(model).parts
    for run in find_runs(values_to_change(config)):
        if TRAIN in run.changes and f"{TRAIN}~{run.changes[TRAIN]}" in parts:
            return run.config.data.files
    return config.data.files


def _values(evaluation: Evaluation) -> Iterator:
    """The scores as huggingface_hub's EvalResults."""
    from huggingface_hub import EvalResult

    named = BY_LABEL.get(evaluation.dataset)
    hub_id = named.hub_id if named else evaluation.dataset
    title = named.title if named else evaluation.dataset
    content = evaluation.content
    for measure, (tests, tests_name) in product(measures(content), tests_of(content).items()):
        name = f"{measure}, {tests_name}" if tests_name else measure
        if measure == "pass@1":
            low, high = interval(solved_shares(content, tests), units_of(content))
            name += f", 95% interval {low:.3f} to {high:.3f}"
        score = round(content[measure][tests], 4)
        yield EvalResult("text-generation", hub_id, title, measure, score, metric_name=name)


FORMS = {"evalplus": evalplus, "model-card": model_card}


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft export", __doc__)
    parser.path("results", "RESULTS", "The results_dir of a run.", shared=True)
    parser.add_argument("--to", choices=FORMS, required=True, help="The form.")
    out = "A new or empty folder for the files. Default: export."
    parser.output("--out", "DIR", out, required=False, default=Path("export"))
    args = parser.parse_args(argv)
    files = list(FORMS[args.to](list(read_evaluations(args.results)), args.out))
    for missing in missing_evaluations(args.results):
        print(f"Not finished, and left out: {missing}", file=sys.stderr)
    if not files:
        raise UserError(f"{args.results} has no finished evaluation that --to {args.to} takes")
    for file in files:
        print(file)
