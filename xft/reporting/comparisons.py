"""Compares pairs of models on each data set, on all data sets together, and on held-out rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

from xft.config.models import MODELS
from xft.evaluation.ground_truth import TEST_SETS
from xft.evaluation.result import solved_shares
from xft.reporting.bootstrap import CONFIDENCE, Difference, Measured, compare, measure
from xft.reporting.runs import Result, Subject
from xft.reporting.statistics import holm
from xft.reporting.tables import to_markdown

# Later models are compared with each of these.
REFERENCES = ("base", "sft", "sft_flops", "soup", "moe_sft")
# Merges that are not compared with these.
BESIDE = ("uniform", "experts_only")
POOLED = "all"
ROWS, LOSS = "held-out rows", "loss"  # dataset and tests of a comparison of losses
COLUMNS = ["first", "second", "dataset", "tests", *(field.name for field in fields(Difference))]
FEWEST = 6  # units on which two models differ: p is at least 2 / 2^k, and 2 / 2^6 < 0.05 < 2 / 2^5
OF_SCORES = """\
Each row compares two models on the same problems, by base + extra tests. Difference +10.0: the
model solves 10 percentage points more than the model in the column "against". 95% interval and p:
a paired bootstrap over {drawn}, for this row alone. Significant: p < 0.05{holm}.
"""
OF_LOSSES = """\
Each row compares the mean loss of a response token on the same held-out rows, in nats. Difference
-0.1000: the loss is lower by 0.1 than that of the model in the column "against". 95% interval and
p: a paired bootstrap over {drawn}, for this row alone. Significant: p < 0.05{holm}.
The loss tells models apart long before pass@1 does, but it does not say that their code works.
"""


@dataclass(frozen=True)
class Values:
    """The values of a model's result on units.

    tests: base, plus or loss. units: what identifies them. weights: see `measure`.
    """

    subject: Subject
    seed: int | None
    dataset: str
    tests: str
    units: tuple
    values: Sequence[float]
    weights: tuple[float, ...] | None = None


def solved_values(results: Mapping[Result, dict]) -> Iterator[Values]:
    """The shares of samples that solve each problem. results: contents of the evaluations."""
    for found, content in results.items():
        ids = dict.fromkeys(row["task_id"] for row in content["problems"])
        problems = (content["dataset"]["sha256"], *ids)
        for tests in TEST_SETS:
            shares = solved_shares(content, tests)
            yield Values(found.subject, found.seed, found.row.dataset, tests, problems, shares)


def loss_values(losses: Mapping[Result, dict]) -> Iterator[Values]:
    """The losses of the held-out rows, in nats a token. losses: contents of the files."""
    for found, content in losses.items():
        tokens = tuple(row["tokens"] for row in content["rows"])
        rows = content.get("tokens"), *tokens
        values = [row["loss"] for row in content["rows"]]
        yield Values(found.subject, found.seed, ROWS, LOSS, rows, values, tokens)


def comparison_table(values: Sequence[Values]):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    A pair is compared only on data sets with the same units for all seeds of both models. If there
    are several, there is a row for all of them together too.
    """
    import pandas as pd

    rows = []
    for tests in dict.fromkeys(one.tests for one in values):
        here = [one for one in values if one.tests == tests]
        datasets = dict.fromkeys(one.dataset for one in here)
        measured = {name: _measured([v for v in here if v.dataset == name]) for name in datasets}
        for first, second in pairs([one.subject for one in here]):
            sets = {
                name: [(models[units, first], models[units, second])]
                for name, models in measured.items()
                for units, subject in models
                if subject == second and (units, first) in models
            }
            if len(sets) > 1:
                sets[POOLED] = [both for found in sets.values() for both in found]
            rows += [
                (first.label, second.label, name, tests, *astuple(compare(found)))
                for name, found in sets.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(values: Sequence[Values]) -> dict[tuple[tuple, Subject], Measured]:
    """The measures of each model that has the same units with all seeds, by units and model."""
    models: dict[Subject, dict[int | None, Values]] = {}
    for one in values:
        models.setdefault(one.subject, {})[one.seed] = one
    groups: dict[tuple, dict[Subject, dict]] = {}
    for subject, seeds in models.items():
        units = {(one.units, one.weights) for one in seeds.values()}
        if len(units) == 1:
            of_seeds = {seed: one.values for seed, one in seeds.items()}
            groups.setdefault(units.pop(), {})[subject] = of_seeds
    found = {}
    for (units, weights), group in groups.items():
        measures = measure(list(group.values()), weights, units)
        found |= {(units, one): m for one, m in zip(group, measures, strict=True)}
    return found


def pairs(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """The pairs to compare, later ones of `MODELS` second.

    Each model is compared with the references of its variant and, if its shares are learned, with
    equal shares for its lambda; also with the same model of the configuration's own values, or else
    of the first variant. A model that several variants share is compared in the first of them.
    """
    models = sorted(dict.fromkeys(subjects), key=lambda one: _rank(one.model))
    found = []
    for second in models:
        found += [
            (first, second)
            for first in models
            if _is_compared(first.model, second.model) and second.variants[0] in first.variants
        ]
        alike = [one for one in models if one.model == second.model]
        first = min(alike, key=lambda one: "" not in one.variants)
        found += [(first, second)] if first != second else []
    return found


def _rank(model: str) -> int:
    """The place of a model in the tables, from the base to the merged models."""
    family = _family(model)
    return MODELS.index(family) if family in MODELS else len(MODELS)


def _family(model: str) -> str:
    return model.partition("/")[0]


def _is_compared(first: str, second: str) -> bool:
    """Whether to compare a pair: a model and a reference, or two merges with the same lambda.

    Of merges, learned shares are compared with equal ones, and a model that was tuned after the
    merge with the merged one.
    """
    merges = {"uniform": "dense", "dense": "heal"}
    family, _, lam = first.partition("/")
    if family in merges:
        return second == f"{merges[family]}/{lam}"
    later = _rank(first) < _rank(second)
    return later and first in REFERENCES and _family(second) not in BESIDE


def comparisons_text(table) -> list[str]:
    """The tables of differences in scores and in losses, each with what it means.

    table: from `comparison_table`. Of each pair it shows the row for all data sets together, if
    there are several. Scores are by base + extra tests.
    """
    parts = []
    for rows in (solved_rows(table), table[table["tests"] == LOSS]):
        if len(rows):
            lines = "".join(f"- {line}\n" for line in verdict(rows))
            parts += [to_markdown(readable(rows)), _legend(rows), lines]
    return parts


def solved_rows(table):
    """The rows by base + extra tests, one for each pair: for all data sets if there are several."""
    return table[table["tests"] == "plus"].drop_duplicates(["first", "second"], keep="last")


def readable(rows):
    """Rows of the table as texts. The second model of a row comes first."""
    losses = _are_losses(rows)
    factor, digits = _scale(losses)
    texts = rows[["second", "first"]].set_axis(["model", "against"], axis=1)
    texts["rows" if losses else "dataset"] = rows["problems" if losses else "dataset"]
    if _has_seeds(rows):
        seeds = zip(rows["seeds_second"], rows["seeds_first"], strict=True)
        texts["seeds"] = [f"{model}, {against}" for model, against in seeds]
    texts["difference"] = [f"{factor * value:+.{digits}f}" for value in rows["difference"]]
    texts["95% interval"] = [
        f"{factor * low:+.{digits}f} to {factor * high:+.{digits}f}"
        for low, high in zip(rows["low"], rows["high"], strict=True)
    ]
    texts["p"] = [p_text(value).removeprefix("= ") for value in rows["p_value"]]
    texts["significant"] = ["yes" if significant else "no" for significant in _significant(rows)]
    return texts


def verdict(rows) -> list[str]:
    """A sentence for each significant difference of rows, and what the others and the problems say.

    A difference is significant if its p-value is below 5% after Holm's correction for all rows.
    """
    chosen = _significant(rows)
    lines = [_difference(row) for row in rows[chosen].itertuples(index=False)]
    if others := chosen.count(False):
        words = "pairs do" if others > 1 else "pair does"
        lines.append(f"{others} {'other ' if lines else ''}{words} not differ significantly.")
    return lines if _are_losses(rows) else [*lines, _power(rows)]


def _difference(row) -> str:
    losses = row.tests == LOSS
    factor, digits = _scale(losses)
    better, worse = (row.second, row.first)[:: 1 if (row.difference > 0) != losses else -1]
    numbers = sorted(factor * abs(value) for value in (row.low, row.difference, row.high))
    low, size, high = (f"{number:.{digits}f}" for number in numbers)
    words = f"has a loss {size} nats lower" if losses else f"solves {size} points more"
    where = "all data sets" if row.dataset == POOLED else row.dataset
    seeds = max(row.seeds_first, row.seeds_second)
    units = f"{row.problems} {'rows' if losses else 'problems'}"
    units += f", {seeds} seeds" if seeds > 1 else ""
    return (
        f"{better} {words} than {worse} on {where} ({units}): 95% interval {low} to {high}, "
        f"p {p_text(row.p_value)}."
    )


def _power(rows) -> str:
    """What the number of problems can show.

    A true difference as large as half of its interval is found in half of the cases.
    """
    count = int(rows["problems"].max())
    if count < FEWEST:
        return f"With {count} problems no difference can be significant."
    points = 100 * max(FEWEST / count, float((rows["high"] - rows["low"]).median()) / 2)
    return (
        f"With {count} problems, a true difference of {points:.1f} points is found in at most half "
        "of the cases, and a smaller one less often."
    )


def _legend(rows) -> str:
    losses = _are_losses(rows)
    drawn = ("rows" if losses else "problems") + (" and seeds" if _has_seeds(rows) else "")
    holm = f" after Holm's correction for {len(rows)} comparisons" if len(rows) > 1 else ""
    return (OF_LOSSES if losses else OF_SCORES).format(drawn=drawn, holm=holm)


def _significant(rows) -> list[bool]:
    return [p_value < 1 - CONFIDENCE for p_value in holm(rows["p_value"])]


def _scale(losses: bool) -> tuple[int, int]:
    """The factor and the digits of a difference: nats for losses, else percentage points."""
    return (1, 4) if losses else (100, 1)


def _are_losses(rows) -> bool:
    return rows["tests"].iloc[0] == LOSS


def _has_seeds(rows) -> bool:
    return bool((rows[["seeds_first", "seeds_second"]] > 1).any(axis=None))


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
