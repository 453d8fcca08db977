"""The models' cards with a `model-index`, which the hub shows as evaluation results.

The cards in the results folder stay as they are, since they were written before the evaluation.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from xft.common.file_access import write_whole
from xft.evaluation.result import measures, solved_shares, tests_of, units_of
from xft.hub.named_sets import BY_LABEL
from xft.reporting.bootstrap import interval
from xft.reporting.exports.evaluations import Evaluation

CARD, OUR_TAG = "README.md", "xft"


def export(evaluations: Sequence[Evaluation], out: Path) -> Iterator[Path]:
    """Write `MODEL/README.md` for each model that was kept. The base's card is its maker's."""
    from huggingface_hub import ModelCard

    for model, folder in {item.model: item.folder for item in evaluations}.items():
        given, written = folder / CARD, out / model / CARD
        card = ModelCard(given.read_text(encoding="utf-8")) if given.is_file() else None
        if card and OUR_TAG in (card.data.tags or ()):
            of_model = (item for item in evaluations if item.model == model)
            card.data.model_name = model
            card.data.eval_results = [value for item in of_model for value in _values(item)]
            write_whole(written, str(card))
            yield written


def _values(evaluation: Evaluation) -> Iterator:
    """The scores as huggingface_hub's EvalResults."""
    from huggingface_hub import EvalResult

    named = BY_LABEL.get(evaluation.dataset)
    hub_id = named.hub_id if named else evaluation.dataset
    title = named.title if named else evaluation.dataset
    content = evaluation.content
    for measure, (tests, tests_name) in product(measures(content), tests_of(content).items()):
        name = ", ".join(filter(None, [measure, tests_name]))
        if measure == "pass@1":
            low, high = interval(solved_shares(content, tests), units_of(content))
            name += f", 95% interval {low:.3f} to {high:.3f}"
        score = round(content[measure][tests], 4)
        yield EvalResult("text-generation", hub_id, title, measure, score, metric_name=name)
