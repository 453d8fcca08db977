"""Compares pairs of models on each data set, on all data sets together, and on validation rows."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from math import inf

from xft.config.sections import MODELS, REFERENCES, family
from xft.evaluation.result import solved_shares, units_of
from xft.evaluation.scoring import TEST_SETS
from xft.reporting.bootstrap import Measured, measure, significant
from xft.reporting.differences import Difference, compare
from xft.reporting.runs import Result, Subject, linked

POOLED = "all"
ROWS, LOSS_TESTS = "validation rows", "loss"  # dataset and tests of a comparison of losses
COMPARED = ["first", "second", "dataset", "tests"]
COLUMNS = [*COMPARED, *(field.name for field in fields(Difference)), "significant"]


@dataclass(frozen=True)
class Values:
    """The values of a model's result on units.

    tests: base, plus or loss.
    units: what identifies the set, then the name of each unit. Units of two sets that have the same
    name are drawn together.
    weights: see `measure`.
    """

    subject: Subject
    seed: int | None
    dataset: str
    tests: str
    units: tuple
    values: Sequence[float]
    weights: tuple[float, ...] | None = None


def solved_values(results: Mapping[Result, dict]) -> Iterator[Values]:
    """The shares of samples that solve each problem.

    results: contents of the evaluations.
    """
    for result, content in results.items():
        problems = (content["dataset"]["sha256"], *units_of(content))
        for tests in TEST_SETS:
            shares = solved_shares(content, tests)
            yield Values(result.subject, result.seed, result.row.dataset, tests, problems, shares)


def loss_values(losses: Mapping[Result, dict]) -> Iterator[Values]:
    """The losses of the validation rows, in nats per token.

    losses: contents of the files.
    """
    for result, content in losses.items():
        tokens = tuple(row["tokens"] for row in content["rows"])
        known = content.get("tokens")
        rows = known, *((known, *row) for row in enumerate(tokens))
        values = [row["loss"] for row in content["rows"]]
        yield Values(result.subject, result.seed, ROWS, LOSS_TESTS, rows, values, tokens)


def comparison_table(values: Sequence[Values]):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    A pair is compared only on data sets with the same units for all seeds of both models. If there
    are several, there is a row for all of them together too, but for those on which no model solves
    any problem.

    significant: whether p is below 5% after Holm's correction. It is for all pairs on the data set,
    but in the last row of a pair, which the verdict is about, for the last rows of all pairs.
    """
    import pandas as pd

    rows = []
    for tests in dict.fromkeys(item.tests for item in values):
        most = inf if tests == LOSS_TESTS else 1.0
        here = [item for item in values if item.tests == tests]
        datasets = dict.fromkeys(item.dataset for item in here)
        live = {item.dataset for item in here if any(item.values)}
        names = linked(dict.fromkeys(item.units[1:] for item in here))
        measured = {
            name: _measured([v for v in here if v.dataset == name], names) for name in datasets
        }
        for first, second in pairs([item.subject for item in here]):
            sets = {
                name: [(models[units, first], models[units, second])]
                for name, models in measured.items()
                for units, subject in models
                if subject == second and (units, first) in models
            }
            if len(sets) > 1:
                pooled = [name for name in sets if name in live] or [*sets]
                sets[POOLED] = [both for name in pooled for both in sets[name]]
            rows += [
                (first.label, second.label, name, tests, *astuple(compare(measures, most)))
                for name, measures in sets.items()
            ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    table["significant"] = table.groupby(["tests", "dataset"])["p_value"].transform(significant)
    last = last_rows(table)
    table.loc[last.index, "significant"] = last.groupby("tests")["p_value"].transform(significant)
    return table


def last_rows(table):
    """The last row of each pair and set of tests: that of all data sets, if there are several."""
    return table.drop_duplicates(["tests", "first", "second"], keep="last")


def _measured(
    values: Sequence[Values], names: Mapping[Hashable, Collection]
) -> dict[tuple[tuple, Subject], Measured]:
    """The measures of each model that has the same units with all seeds, by units and model.

    names: for each unit's name, the names of all units that are drawn with it.
    """
    models: dict[Subject, dict[int | None, Values]] = {}
    for of_seed in values:
        models.setdefault(of_seed.subject, {})[of_seed.seed] = of_seed
    groups: dict[tuple, dict[Subject, dict]] = {}
    for subject, seeds in models.items():
        units = {(of_seed.units, of_seed.weights) for of_seed in seeds.values()}
        if len(units) == 1:
            of_seeds = {seed: of_seed.values for seed, of_seed in seeds.items()}
            groups.setdefault(units.pop(), {})[subject] = of_seeds
    of_models = {}
    for (units, weights), group in groups.items():
        _, *unit_names = units
        measures = measure(list(group.values()), weights, unit_names, names[unit_names[0]])
        of_models |= {(units, subject): m for subject, m in zip(group, measures, strict=True)}
    return of_models


def pairs(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Subject]]:
    """The pairs to compare, later ones of `MODELS` second.

    Each model is compared with the references of its variant and, if its shares are learned, with
    equal shares for its lambda; also with the same model of the configuration's own values, or else
    of the first variant. A model that several variants share is compared in the first of them.
    """
    models = sorted(dict.fromkeys(subjects), key=lambda subject: _rank(subject.model))
    for second in models:
        for first in models:
            if _is_compared(first.model, second.model) and second.variants[0] in first.variants:
                yield first, second
        alike = [subject for subject in models if subject.model == second.model]
        first = min(alike, key=lambda subject: "" not in subject.variants)
        if first != second:
            yield first, second


def _rank(model: str) -> int:
    """The place of a model in the tables, from the base to the merged models."""
    return [*MODELS, family(model)].index(family(model))


def _is_compared(first: str, second: str) -> bool:
    """Whether to compare a pair: a model and a reference, or two merges with the same lambda."""
    of_first, of_second = family(first), family(second)
    if (of_first, of_second) == ("uniform", "dense"):
        return first.partition("/")[2] == second.partition("/")[2]
    is_later = _rank(first) < _rank(second)
    return is_later and of_first in REFERENCES and of_second != "uniform"
