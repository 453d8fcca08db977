"""Compares pairs of models on each data set, on all of them together, and on validation rows; and
says in sentences and tables which ones differ significantly.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from math import floor, inf, isinf, isnan, log2, nan
from pathlib import Path
from statistics import NormalDist

from xft.common.errors import counted
from xft.common.file_access import read_text
from xft.config.sections import MODELS, REFERENCES, kind_of
from xft.reporting.run_table import LOSS_TESTS, NamedModel, Values, linked
from xft.reporting.statistics import (
    LEVEL,
    POWER,
    Difference,
    Measured,
    Variances,
    compare,
    find_variances,
    findable,
    measure,
    seeds_needed,
)

POOLED = "all"  # data sets
# The questions that a pair can answer.
OF_VARIANTS, OF_SWEEP, OF_MODELS = "variants", "sweep", "models"
NAMES = ["first", "second", "dataset", "tests", "question"]
MEASURES = [field.name for field in fields(Difference)]
COLUMNS = [*NAMES, *MEASURES, "significant", "findable", "seeds_needed"]
COUNTS = ["problems", "seeds_first", "seeds_second"]
NUMBERS = ["difference", "low", "high", "p_value", "error", "findable", "seeds_needed"]
MAY_LACK = ["low", "high", "findable", "seeds_needed"]
OVERALL = "is_overall"  # a column that the file has not: `findable` is empty in the other rows
SMALL = 2  # percentage points
NEGLIGIBLE = 0.01  # nats per token: 1% of the perplexity
NOT, SMALL_YES = "no", "yes, negligible"


def comparison_table(values: Sequence[Values], choose: Callable | None = None):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    A pair is compared only on data sets with the same units for all seeds of both models. If there
    are several, with the same seeds, there is a row for all of them together too, but for those on
    which no model solves any problem.

    question: `OF_VARIANTS` if the pair is a variant and its control, and `OF_SWEEP` if it differs
    in the value of a swept key, which the configuration asks about; else `OF_MODELS`.

    is_overall: whether the row is that of a pair which the verdict is about: that of all data sets,
    if there are several with the same seeds, else that of the last data set.

    significant: whether p is below 5% after Holm's correction. The family is all pairs of the
    question on the data set; of a row that is overall, all such rows of the question.

    findable: in a row that is overall, the true difference that is found in `POWER` of the cases
    among as many pairs. It is infinite if no possible difference is found so often.

    seeds_needed: in a row that is overall, if scores do not differ significantly, the number of
    seeds with which `open_difference` is found in `POWER` of the cases. It is infinite if 100 are
    too few, and NaN if both models have one seed.

    choose: gives the pairs of a list of `NamedModel`; None: `pairs`.
    """
    import pandas as pd

    compared = []
    for tests in dict.fromkeys(item.tests for item in values):
        of_tests = [item for item in values if item.tests == tests]
        compared += _compared_pairs(of_tests, tests, choose or pairs)
    rows = [row for row, _ in compared]
    table = pd.DataFrame(rows, columns=[*NAMES, *MEASURES, OVERALL]).astype({OVERALL: bool})
    by_set = table.groupby(["tests", "question", "dataset"])
    overall = overall_rows(table)
    by_question = overall.groupby(["tests", "question"])
    table["significant"] = by_set["p_value"].transform(significant)
    table.loc[overall.index, "significant"] = by_question["p_value"].transform(significant)
    sizes = by_question["first"].transform("size")
    smallest, seeds = {}, {}
    for row in table.loc[overall.index].itertuples():
        _, variances = compared[row.Index]
        size = sizes[row.Index]
        smallest[row.Index] = _findable(row, variances, size)
        is_open = row.tests == SCORES.tests and not row.significant
        if is_open and row.question != OF_SWEEP:
            seeds[row.Index] = seeds_needed(variances, size, open_difference(row))
    table["findable"] = pd.Series(smallest, dtype=float)
    table["seeds_needed"] = pd.Series(seeds, dtype=float)
    return table[[*COLUMNS, OVERALL]]


def with_base_tests(table):
    """The table with a row for the original tests before those for all tests, which say the same.

    table: see `comparison_table`. It has no rows for the original tests.
    """
    import pandas as pd

    of_all_tests = table[table["tests"] == SCORES.tests]
    of_base_tests = of_all_tests.assign(tests="base", seeds_needed=nan)
    return pd.concat([of_base_tests, table], ignore_index=True)


def _compared_pairs(
    values: Sequence[Values], tests: str, choose: Callable
) -> Iterator[tuple[tuple, Variances]]:
    """For each pair and data set the first cells of its row, and the parts of its variance.

    values: by these tests. choose: see `comparison_table`.
    """
    most = _most(tests)
    live = {item.dataset for item in values if any(item.values)}
    measured = _measured_by_set(values)
    for first, second in choose([item.subject for item in values]):
        sets = _sets_of_pair(measured, first, second, live)
        question = _question(first, second)
        names = [*sets]
        for name, measures in sets.items():
            is_overall = name == names[-1]
            variances = find_variances(measures)
            difference = astuple(compare(measures, most, variances))
            row = first.label, second.label, name, tests, question, *difference, is_overall
            yield row, variances


def _measured_by_set(values: Sequence[Values]) -> dict[str, list[dict[NamedModel, Measured]]]:
    """For each data set the measures of the models, see `_measured`."""
    names = linked(dict.fromkeys(item.units[1:] for item in values))
    by_set: dict[str, list[Values]] = {}
    for item in values:
        by_set.setdefault(item.dataset, []).append(item)
    return {name: [*_measured(of_set, names)] for name, of_set in by_set.items()}


def _sets_of_pair(
    measured: Mapping[str, Sequence[Mapping[NamedModel, Measured]]],
    first: NamedModel,
    second: NamedModel,
    live: Collection[str],
) -> dict[str, list[tuple[Measured, Measured]]]:
    """The measures of a pair by data set. If there are several with the same seeds, those of all
    data sets together are last.

    live: see `pooled_sets`.
    """
    sets = {
        name: [(group[first], group[second])]
        for name, groups in measured.items()
        for group in groups
        if first in group and second in group
    }
    seeds = {(of_first.seeds, of_second.seeds) for ((of_first, of_second),) in sets.values()}
    if len(sets) > 1 and len(seeds) == 1:
        pooled = pooled_sets(sets, live)
        sets[POOLED] = [both for name in pooled for both in sets[name]]
    return sets


def read_comparisons(file: Path):
    """The data frame of `comparison_table`, from the file that step summary writes.

    Raises ValueError if it is no such table, and UserError if it cannot be read.
    """
    import pandas as pd

    table = pd.read_csv(StringIO(read_text(file)), dtype=str, keep_default_na=False)
    if [*table.columns] != COLUMNS:
        raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
    table = table.replace({column: {"": "nan"} for column in MAY_LACK})
    table = table.astype(dict.fromkeys(COUNTS, int) | dict.fromkeys(NUMBERS, float))
    table["significant"] = table["significant"] == "True"
    table[OVERALL] = table["findable"].notna()
    return table


def _most(tests: str) -> float:
    """The largest difference of values."""
    return inf if tests == LOSS_TESTS else 1.0


def _findable(row: tuple, variances: Variances, pairs: int) -> float:
    """See `findable` of `comparison_table`. variances: of a row."""
    fewest = fewest_problems(pairs)
    if row.problems < fewest:
        return inf
    size = findable(variances, pairs)
    if row.tests != LOSS_TESTS:
        size = max(size, fewest / row.problems)
    return size if size <= _most(row.tests) else inf


def pooled_sets(datasets: Iterable[str], live: Collection[str]) -> list[str]:
    """The data sets that figures over all of them count: those on which a model solves a problem.

    If no model solves any problem, all sets are counted.

    live: the data sets on which any model solves a problem.
    """
    datasets = [*datasets]
    return [name for name in datasets if name in live] or datasets


def overall_rows(table):
    """A row of each pair and set of tests: that of all data sets, if there are several."""
    return table[table[OVERALL]]


def _measured(
    values: Sequence[Values], names: Mapping[Hashable, Collection]
) -> Iterator[dict[NamedModel, Measured]]:
    """The measures of the models that have the same units with all seeds, in groups: by model.

    names: for each unit's name, the names of all units that are drawn with it.
    """
    models: dict[NamedModel, dict[int | None, Values]] = {}
    for of_seed in values:
        models.setdefault(of_seed.subject, {})[of_seed.seed] = of_seed
    groups: dict[tuple, dict[NamedModel, dict]] = {}
    for subject, seeds in models.items():
        units = {(of_seed.units, of_seed.weights) for of_seed in seeds.values()}
        if len(units) == 1:
            of_seeds = {seed: of_seed.values for seed, of_seed in seeds.items()}
            groups.setdefault(units.pop(), {})[subject] = of_seeds
    for ((_, *units), weights), group in groups.items():
        measures = measure([*group.values()], weights, units, names[units[0]])
        yield dict(zip(group, measures, strict=True))


def pairs(subjects: Sequence[NamedModel]) -> Iterator[tuple[NamedModel, NamedModel]]:
    """The pairs to compare, later ones of `MODELS` second.

    Each model is compared with the references of its variant and, if its shares are learned, with
    equal shares for its lambda; also with the same model of its control, and of other values of a
    swept key. A model that several variants share is compared in the first of them.
    """
    models = sorted(dict.fromkeys(subjects), key=lambda subject: _rank(subject.model))
    for second in models:
        for first in models:
            if _is_compared(first.model, second.model) and second.variants[0] in first.variants:
                yield first, second
        alike = [subject for subject in models if subject.model == second.model]
        first = _control(second, alike)
        if first != second and not is_of_sweep(first, second):
            yield first, second
        for first in alike[: alike.index(second)]:
            if is_of_sweep(first, second) and len(changed_keys(first, second)) == 1:
                yield first, second


def is_of_sweep(first: NamedModel, second: NamedModel) -> bool:
    """Whether two models differ only in values of a sweep."""
    return first.method == second.method and first.settings != second.settings


def changed_keys(first: NamedModel, second: NamedModel) -> set[str]:
    """The swept keys in whose values two models differ."""
    return {setting.key for setting in {*first.settings} ^ {*second.settings}}


def _question(first: NamedModel, second: NamedModel) -> str:
    if is_of_sweep(first, second):
        return OF_SWEEP
    return OF_VARIANTS if first.model == second.model else OF_MODELS


def _control(subject: NamedModel, alike: Sequence[NamedModel]) -> NamedModel:
    """The model that another one is compared with.

    alike: the same model of all variants. If its control does not have it, the configuration's own
    values count or, if they do not run, the first variant.
    """
    for name in (subject.control, ""):
        for other in alike:
            if name in other.variants:
                return other
    return alike[0]


def _rank(model: str) -> int:
    """The place of a model in the tables, from the base to the merged models. Others come last."""
    kinds = [*MODELS]
    kind = kind_of(model)
    return kinds.index(kind) if kind in kinds else len(kinds)


def _is_compared(first: str, second: str) -> bool:
    """Whether to compare a pair: a model and a reference, or two merges with the same lambda."""
    of_first, of_second = kind_of(first), kind_of(second)
    if (of_first, of_second) == ("uniform", "dense"):
        return first.partition("/")[2] == second.partition("/")[2]
    is_later = _rank(first) < _rank(second)
    return is_later and of_first in REFERENCES and of_second != "uniform"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction: the chance of any false finding is at most 5%."""
    import pandas as pd

    ordered = pd.Series([*p_values], dtype=float).sort_values()
    factors = pd.Series(range(len(ordered), 0, -1), ordered.index)
    return (factors * ordered).clip(upper=1).cummax().sort_index().tolist()


def significant(p_values: Sequence[float]) -> list[bool]:
    """Which differences are significant: those below 5% after Holm's correction for all of them."""
    return [p_value < LEVEL for p_value in holm(p_values)]


@dataclass(frozen=True)
class Quantity:
    """A quantity that is compared, in words.

    tests: of its rows in the table.
    factor, digits: a value is shown times this factor, with so many digits.
    measured_on: a unit that it is measured on.
    unit: of a difference.
    sign: of a difference if the second model is better.
    """

    tests: str
    name: str
    factor: int
    digits: int
    measured_on: str
    unit: str
    sign: int

    def number(self, value: float, sign: str = "") -> str:
        text = f"{self.factor * value:{sign}.{self.digits}f}"
        return f"{self.factor * value:{sign}.1g}" if value and not float(text) else text

    def ends(self, row: tuple) -> str:
        """The 95% interval of a row."""
        return " to ".join(self.number(end, "+") for end in (row.low, row.high))


SCORES = Quantity("plus", "pass@1", 100, 1, "problem", "percentage points", 1)
LOSSES = Quantity(LOSS_TESTS, "validation loss", 1, 4, "row", "nats of validation loss", -1)


def problems_needed(problems: int, error: float, pairs: int, difference: float) -> float:
    """How many problems find a true difference in `POWER` of the cases.

    n ((z(1 - 0.025 / pairs) + z(POWER)) error / difference)^2, with Bonferroni's correction for all
    pairs. If two models differ on k problems, p is at least 2 / 2^k.

    problems: n.
    error: the standard error of a difference with so many problems.
    difference: of the shares of solved problems, not 0.
    """
    needed = problems * (errors_of_power(pairs) * error / difference) ** 2
    return float(f"{max(needed, fewest_problems(pairs) / abs(difference)):.2g}")


def errors_of_power(pairs: int) -> float:
    """How many standard errors a true difference has that is found in `POWER` of the cases.

    With Bonferroni's correction for all pairs.
    """
    normal = NormalDist().inv_cdf
    return normal(1 - LEVEL / 2 / pairs) + normal(POWER)


def fewest_problems(pairs: int) -> int:
    """On how many problems two models must differ, so that the difference can be significant."""
    return floor(log2(2 * pairs / LEVEL)) + 1


def quantities(table, question: str) -> Iterator[tuple[Quantity, object]]:
    """The quantities that were compared for a question, with the overall row of each pair."""
    asked = table[table["question"] == question]
    for quantity in (SCORES, LOSSES):
        rows = overall_rows(asked[asked["tests"] == quantity.tests])
        if len(rows):
            yield quantity, rows


def sentences(quantity: Quantity, rows) -> Iterator[str]:
    """How many pairs of models differ significantly, and what the problems can show.

    rows: from `quantities`. A true difference as large as half of its interval is found in half of
    the cases.
    """
    words = significance(quantity, rows)
    pairs = counted(len(rows), "pair")
    count = int(rows["problems"].max())
    fewest = fewest_problems(len(rows))
    if count < fewest:
        units = f"With {counted(count, quantity.measured_on)} and {pairs} of models"
        yield f"{units}, no difference in {quantity.name} can be significant."
        return
    differ = len(words) - words.count(NOT)
    small = words.count(SMALL_YES)
    negligible = ""
    if small:
        negligible = f", {small} negligibly: by less than {NEGLIGIBLE}, 1% of the perplexity"
    verb = "differs" if differ == 1 else "differ"
    yield f"Of {pairs} of models, {differ} {verb} significantly in {quantity.name}{negligible}."
    if quantity is SCORES:
        half_interval = float((rows["high"] - rows["low"]).median()) / 2
        points = 100 * max(fewest / count, half_interval)
        yield (
            f"With {count} problems, a true difference of {points:.1f} percentage points is "
            "significant in at most half of the cases."
        )


def significance(quantity: Quantity, rows) -> list[str]:
    """Whether each difference is significant, in words."""
    words = []
    for row in rows.itertuples():
        if not row.significant:
            words.append(NOT)
        elif quantity is LOSSES and abs(row.difference) < NEGLIGIBLE:
            words.append(SMALL_YES)
        else:
            words.append("yes")
    return words


def difference_rows(quantity: Quantity, rows) -> Iterator[dict]:
    """Rows of the table as texts by heading. The second model of a row comes first."""
    has_seeds = (rows[["seeds_first", "seeds_second"]] > 1).any(axis=None)
    for row, words in zip(rows.itertuples(), significance(quantity, rows), strict=True):
        cells = {"model": row.second, "against": row.first}
        if quantity is LOSSES:
            cells["rows"] = row.problems
        else:
            cells["dataset"] = row.dataset
        if has_seeds:
            cells["seeds"] = f"{row.seeds_second}, {row.seeds_first}"
        cells["difference"] = quantity.number(row.difference, "+")
        cells["95% interval"] = "-" if isnan(row.low) else quantity.ends(row)
        cells["p"] = p_text(row.p_value).removeprefix("= ")
        cells["significant"] = words
        yield cells


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def comparison_sentence(row: tuple, pairs: int) -> str:
    """A comparison of scores in words.

    row: of the table, as a named tuple. pairs: the number of comparisons.
    """
    return f"{row.second} against {row.first}: {difference_text(SCORES, row, pairs)}."


def difference_text(quantity: Quantity, row: tuple, pairs: int) -> str:
    """The difference of a comparison in words.

    row: of the table, as a named tuple. pairs: the number of comparisons.
    """
    among = f" among {pairs} comparisons" if pairs > 1 else ""
    interval = "no interval" if isnan(row.low) else f"95% interval {quantity.ends(row)}"
    finding = "significant" if row.significant else "not significant"
    difference = f"{quantity.number(row.difference, '+')} {quantity.unit}"
    return f"{difference} ({interval}; p {p_text(row.p_value)}, {finding}{among})"


def open_difference(row: tuple) -> float:
    """The difference of scores that more evidence is to find: the measured one, if not small."""
    return max(abs(row.difference), SMALL / SCORES.factor)


def more_evidence(row: tuple, pairs: int) -> tuple[float, str]:
    """How many problems would find `open_difference`, and a sentence about problems and seeds.

    The number is 0 if there are enough problems. The sentence is empty if there is nothing to say.
    """
    size = open_difference(row)
    needed = problems_needed(row.problems, row.error, pairs, size)
    has_few = needed > row.problems
    ways = [_seeds_text(row), _problems_text(row, needed) if has_few else ""]
    ways = [way for way in ways if way]
    if not ways:
        return 0, ""
    return needed if has_few else 0, (
        f"More evidence: {', or '.join(ways)}, would find a true difference of "
        f"{SCORES.number(size)} percentage points between {row.second} and {row.first} in "
        f"{POWER:.0%} of the cases."
    )


def _problems_text(row: tuple, needed: float) -> str:
    """How many problems would find `open_difference`. needed: more than the row has."""
    bound = "about" if row.error else "at least"
    times = needed / row.problems
    factor = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
    text = f"{bound} {needed:,.0f} problems, {factor} times as many"
    if max(row.seeds_first, row.seeds_second) > 1:
        text += ", if the seeds did not vary"
    return text


def _seeds_text(row: tuple) -> str:
    """How many seeds would find `open_difference`. Empty if that is not known, or too many."""
    seeds = max(row.seeds_first, row.seeds_second)
    if isnan(row.seeds_needed) or isinf(row.seeds_needed) or row.seeds_needed <= seeds:
        return ""
    return f"about {row.seeds_needed:.0f} seeds in place of {seeds}"
