"""Compares pairs of models on each data set, on all data sets together, and on held-out rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain

from xft.evaluation.ground_truth import TEST_SETS
from xft.evaluation.result import has_several_samples, solved_shares
from xft.reporting.bootstrap import (
    Difference,
    Measured,
    compare_over_seeds,
    measure,
)
from xft.reporting.statistics import CONFIDENCE, Comparison, compare, holm, tango
from xft.reporting.subjects import Names, Subject

# Later models are compared with each of these.
REFERENCES = ("base", "sft", "sft_flops", "soup", "moe_sft")
# Merges that are not compared with these.
BESIDE = ("uniform", "experts_only")
ORDER = ("base", "moe", "sft", "sft_flops", "soup", "moe_sft", *BESIDE, "dense", "heal")
POOLED = "all"
ROWS, LOSS = "held-out rows", "loss"  # dataset and tests of a comparison of losses
COLUMNS = ["first", "second", "dataset", "tests", *(field.name for field in fields(Comparison))]
SEEDS = ["seeds_first", "seeds_second"]
COUNTS = ["both", "only_first", "only_second", "neither"]
LEGEND = """\
Each row compares two models on the same problems, by base + extra tests. Difference +10.0: the
model solves 10 percentage points more problems than the model in the column "against". 95%
interval: Tango's score interval for paired shares. p: exact McNemar test. If interval and p
disagree, p decides. Both are for one row alone. Counts: the problems that both models solve, only
the model, only the other model, and none of the two. Needed: with this many problems, a test at the
5% level would find such a difference in 80% of cases.
"""
OF_SAMPLES = "With several samples: a problem counts as solved if most of its samples pass.\n"
OVER_SEEDS = """\
Each row compares two models on the same problems, by base + extra tests. Difference +10.0: over all
seeds, the model solves 10 percentage points more than the model in the column "against". Seeds: the
numbers of both. 95% interval and p: a bootstrap that draws seeds and problems, the same seeds for
both models if they have the same. Both are for one row alone. With fewer than about five seeds, the
interval is too narrow if seeds change a score by more than the problems' chance does.
`comparisons.csv` has each data set by itself.
"""
OF_LOSSES = """\
Each row compares the mean loss of a response token on the same held-out rows, in nats. Difference
-0.1000: the loss is lower than that of the model in the column "against". 95% interval and p, for
one row alone: a bootstrap that draws {drawn}. Shown: at the 5% level{holm}.
The loss tells models apart long before pass@1 does, but it does not say that their code works.
"""

# Results by data set and seed, for each model.
Results = Mapping[Subject, Mapping[str, Mapping[int | None, dict]]]


def by_subject(
    subjects: Sequence[Subject], datasets: Sequence[str], results: Iterable[dict]
) -> Results:
    """The results of each model (a subject without seed) by data set and seed."""
    found: dict[Subject, dict[str, dict[int | None, dict]]] = {}
    for about, dataset, result in zip(subjects, datasets, results, strict=True):
        found.setdefault(about.unseeded, {}).setdefault(dataset, {})[about.seed] = result
    return {
        about: {name: _by_seed(of_seeds) for name, of_seeds in sets.items()}
        for about, sets in found.items()
    }


def _by_seed(results: Mapping[int | None, dict]) -> dict[int | None, dict]:
    """In the order of the seeds, so that equal seeds of two models have equal places."""
    return dict(sorted(results.items(), key=lambda item: -1 if item[0] is None else item[0]))


def comparison_table(results: Results, names: Names):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    A pair is compared only on data sets with the same problems for both models. If there are
    several, there is a row for all of them together too. Models with one result each are compared
    by `compare`, others by `compare_over_seeds`; then the table has the columns `SEEDS`.
    """
    measured = _Measures(results)
    rows = []
    for pair in pairs(list(results)):
        sets = [name for name in results[pair[1]] if _share_problems(results, pair, name)]
        many = any(len(results[one][name]) > 1 for one in pair for name in sets)
        named = dict(zip(("first", "second"), map(names.label, pair), strict=True))
        rows += [
            named | row
            for tests in TEST_SETS
            for row in (
                _over_seeds(measured, pair, sets, tests)
                if many
                else _single(results, pair, sets, tests)
            )
        ]
    return _table(rows)


def _table(rows: list[dict]):
    """The rows as a data frame with all columns. Those of counts hold integers."""
    import pandas as pd

    rows = [dict.fromkeys(SEEDS, 1) | row for row in rows]
    several = any(row[name] > 1 for row in rows for name in SEEDS)
    table = pd.DataFrame(rows, columns=COLUMNS + SEEDS * several)
    whole = [*COUNTS, *SEEDS * several]
    return table.astype(dict.fromkeys(whole, "Int64"))


def pairs(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """The pairs to compare, later ones of `ORDER` second.

    Each model is compared with the references and, if its shares are learned, with equal shares
    for its lambda, all of its own variant; also with the same model of the configuration's own
    values, or else of the first variant. A model that a variant shares with others lies among the
    results with fewer changes: that with the most of the variant's own changes counts.
    """
    models = sorted(dict.fromkeys(subjects), key=lambda one: _rank(one.model))
    found = []
    for second in models:
        earlier = [one.model for one in models if _rank(one.model) < _rank(second.model)]
        names = [name for name in dict.fromkeys(earlier) if _is_compared(name, second.model)]
        found += [(first, second) for name in names if (first := _nearest(name, second, models))]
        alike = [one for one in models if one.model == second.model]
        first = min(alike, key=lambda one: bool(one.changes))
        found += [(first, second)] if first != second else []
    return found


def _nearest(model: str, second: Subject, models: Sequence[Subject]) -> Subject | None:
    """The result of a model for a variant, which may depend on some of its changes only."""
    fitting = [one for one in models if one.model == model and {*one.changes} <= {*second.changes}]
    return max(fitting, key=lambda one: len(one.changes), default=None)


def _rank(model: str) -> int:
    """The place of a model in `ORDER`, from the base to the merged models."""
    family = _family(model)
    return ORDER.index(family) if family in ORDER else len(ORDER)


def _family(model: str) -> str:
    return model.partition("/")[0]


def _is_compared(first: str, second: str) -> bool:
    """Whether to compare a pair: a model and a reference, or two merges with the same lambda.

    first, second: in `ORDER`. Of merges, learned shares are compared with equal ones, and a model
    that was tuned after the merge with the merged one.
    """
    merges = {"uniform": "dense", "dense": "heal"}
    family, _, lam = first.partition("/")
    if family in merges:
        return second == f"{merges[family]}/{lam}"
    return first in REFERENCES and _family(second) not in BESIDE


def _share_problems(results: Results, pair: tuple[Subject, Subject], dataset: str) -> bool:
    found = [results[one].get(dataset, {}) for one in pair]
    return all(found) and len({_problems(r) for of_one in found for r in of_one.values()}) == 1


def _problems(result: dict) -> tuple:
    """What identifies the problems of a result."""
    return (result["dataset"]["sha256"], *dict.fromkeys(r["task_id"] for r in result["problems"]))


def _single(
    results: Results, pair: tuple[Subject, Subject], sets: Sequence[str], tests: str
) -> list[dict]:
    """Compare two models with one result each."""
    solved = {
        name: [_solved(next(iter(results[one][name].values())), tests) for one in pair]
        for name in sets
    }
    if len(solved) > 1:
        solved[POOLED] = [list(chain(*lists)) for lists in zip(*solved.values(), strict=True)]
    return [
        {"dataset": name, "tests": tests} | asdict(compare(before, after))
        for name, (before, after) in solved.items()
    ]


def _solved(result: dict, tests: str) -> list[bool]:
    """For each problem, whether most of its samples solve it."""
    return [share > 0.5 for share in solved_shares(result, tests)]


class _Measures:
    """The measures of all models on a data set, computed once for all pairs."""

    def __init__(self, results: Results):
        self.results = results
        self.found: dict[tuple[str, str], dict[Subject, Measured]] = {}

    def of(self, dataset: str, tests: str) -> dict[Subject, Measured]:
        """Those of each model, with the same resamples for models with the same problems."""
        if (dataset, tests) not in self.found:
            self.found[dataset, tests] = self._measure(dataset, tests)
        return self.found[dataset, tests]

    def _measure(self, dataset: str, tests: str) -> dict[Subject, Measured]:
        groups: dict[tuple, dict[Subject, Mapping]] = {}
        for about, sets in self.results.items():
            identities = {_problems(result) for result in sets.get(dataset, {}).values()}
            if len(identities) == 1:
                groups.setdefault(identities.pop(), {})[about] = sets[dataset]
        order = list(dict.fromkeys(name for sets in self.results.values() for name in sets))
        found = {}
        for group in groups.values():
            values = [
                [solved_shares(r, tests) for r in of_one.values()] for of_one in group.values()
            ]
            measures = measure(list(group.values()), values, stream=order.index(dataset))
            found |= dict(zip(group, measures, strict=True))
        return found


def _over_seeds(
    measures: _Measures, pair: tuple[Subject, Subject], sets: Sequence[str], tests: str
) -> list[dict]:
    """Compare two models. One of them, or both, have several seeds."""
    by_set = {name: tuple(measures.of(name, tests)[one] for one in pair) for name in sets}
    chosen = {name: [both] for name, both in by_set.items()}
    if len(sets) > 1:
        chosen[POOLED] = list(by_set.values())
    return [
        {"dataset": name, "tests": tests} | asdict(_with_width(compare_over_seeds(both)))
        for name, both in chosen.items()
    ]


def _with_width(found: Difference) -> Difference:
    """The comparison, with the width of Tango's interval if all problems have one difference.

    All resamples are equal then, and the interval would have no width.
    """
    if found.low < found.high:
        return found
    low, high = (found.difference + end for end in tango(0, 0, found.problems))
    return replace(found, low=max(low, -1.0), high=min(high, 1.0))


def loss_table(losses: Results, names: Names):
    """A data frame as of `comparison_table`, about the losses on the same held-out rows.

    losses: contents of files of step validation_loss, with `ROWS` as their data set. difference: of
    the mean loss of a token; problems: rows.
    """
    groups: dict[tuple, dict[Subject, Mapping]] = {}
    for about, sets in losses.items():
        identities = {_rows(content) for content in sets[ROWS].values()}
        if len(identities) == 1:
            groups.setdefault(identities.pop(), {})[about] = sets[ROWS]
    found = []
    for (_, *tokens), group in groups.items():
        values = [[_row_losses(c) for c in by_seed.values()] for by_seed in group.values()]
        measures = dict(zip(group, measure(list(group.values()), values, tokens), strict=True))
        for pair in pairs(list(group)):
            named = dict(zip(("first", "second"), map(names.label, pair), strict=True))
            compared = compare_over_seeds([tuple(measures[one] for one in pair)])
            found.append(named | {"dataset": ROWS, "tests": LOSS} | asdict(compared))
    return _table(found)


def with_losses(table, losses):
    """The tables of `comparison_table` and `loss_table` as one."""
    import pandas as pd

    if not len(losses):
        return table
    found = pd.concat([table, losses]) if len(table) else losses
    return found.fillna(dict.fromkeys([name for name in SEEDS if name in found], 1))


def about_losses(table):
    """The rows about losses."""
    return table[table["tests"] == LOSS]


def _rows(content: dict) -> tuple:
    """What identifies the rows of a loss: their artifact, and the tokens of each."""
    return (content.get("tokens"), *(row["tokens"] for row in content["rows"]))


def _row_losses(content: dict) -> list[float]:
    return [row["loss"] for row in content["rows"]]


def legend(results: Iterable[dict]) -> str:
    """An explanation of the table of comparisons, in a few lines."""
    return LEGEND + OF_SAMPLES * any(has_several_samples(result) for result in results)


def loss_legend(table) -> str:
    """An explanation of the table of losses."""
    count = len(about_losses(table))
    drawn = "rows and seeds" if SEEDS[0] in table else "rows"
    correction = f", with Holm's correction for {count} comparisons" if count > 1 else ""
    return OF_LOSSES.format(drawn=drawn, holm=correction)


def about_one_result(table):
    """The rows for base + extra tests of models with one result each."""
    return about_all_tests(table)[lambda rows: rows["both"].notna()]


def about_seeds(table):
    """The rows for base + extra tests of models with several seeds."""
    return about_all_tests(table)[lambda rows: rows["both"].isna()]


def widest(rows):
    """One row for each pair of models: the last, for all data sets if there are several."""
    return rows.drop_duplicates(["first", "second"], keep="last")


def about_all_tests(table):
    """The rows for base + extra tests."""
    return table[table["tests"] == "plus"]


def readable_comparisons(table):
    """The rows of `about_one_result` as texts. The second model of a row comes first."""
    shown = about_one_result(table)
    texts = _texts(shown, "dataset")
    counts = shown[["both", "only_second", "only_first", "neither"]].itertuples(index=False)
    texts["both, model, against, none"] = [", ".join(map(str, row)) for row in counts]
    texts["needed"] = shown["needed"].map("{:.0f}".format, na_action="ignore").fillna("")
    return texts


def readable_over_seeds(table):
    """The rows of `about_seeds` as texts, for the `widest` data set of each pair."""
    return _texts(widest(about_seeds(table)), "dataset")


def readable_losses(table):
    """The rows about losses as texts."""
    shown = about_losses(table)
    texts = _texts(shown, "problems", digits=4, factor=1).rename(columns={"problems": "rows"})
    texts["shown"] = ["yes" if p < 1 - CONFIDENCE else "no" for p in holm(shown["p_value"])]
    return texts


def _texts(shown, third: str, digits: int = 1, factor: int = 100):
    """The columns that all tables have. third: a column after the models."""
    texts = shown[["second", "first", third]].set_axis(["model", "against", third], axis=1)
    if SEEDS[0] in shown and shown["both"].isna().all():
        pairs = zip(shown["seeds_second"], shown["seeds_first"], strict=True)
        texts["seeds"] = [f"{model}, {against}" for model, against in pairs]
    scaled = {name: factor * shown[name] for name in ("difference", "low", "high")}
    texts["difference"] = [f"{value:+.{digits}f}" for value in scaled["difference"]]
    texts["95% interval"] = [
        f"{low:+.{digits}f} to {high:+.{digits}f}"
        for low, high in zip(scaled["low"], scaled["high"], strict=True)
    ]
    texts["p"] = [p_text(value).removeprefix("= ") for value in shown["p_value"]]
    return texts


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
