"""Compares pairs of models on each data set and on all data sets together."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from itertools import chain, combinations

from workflow_scripts.evaluation.ground_truth import TEST_SETS
from workflow_scripts.evaluation.result import has_several_samples, solved_shares
from workflow_scripts.reporting.statistics import Comparison, compare

REFERENCES = ("base", "sft", "moe_sft")  # later models are compared with each of these
ORDER = ("base", "moe", "sft", "moe_sft", "uniform", "dense")
POOLED = "all"
COLUMNS = ["first", "second", "dataset", "tests", *(field.name for field in fields(Comparison))]
LEGEND = """\
Each row compares two models on the same problems, by base + extra tests. Difference +10.0: the
model solves 10 percentage points more problems than the model in the column "against". 95%
interval: Tango's score interval for paired shares. p: exact McNemar test. If interval and p
disagree, p decides. Both are for one row alone. Counts: the problems that both models solve, only
the model, only the other model, and none of the two. Needed: with this many problems, a test at the
5% level would find such a difference in 80% of cases.
"""
OF_SAMPLES = "With several samples: a problem counts as solved if most of its samples pass.\n"


def comparison_table(results: Mapping[tuple[str, str], dict]):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    results: by the names of model and data set. A pair is compared only on data sets with the same
    problems for both models. If there are several, there is a row for all of them together too.
    """
    import pandas as pd

    models = sorted(dict.fromkeys(model for model, _ in results), key=_rank)
    pairs = [pair for pair in combinations(models, 2) if _is_compared(*pair)]
    pairs.sort(key=lambda pair: models.index(pair[1]))
    rows = [row for first, second in pairs for row in _pair(first, second, results)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rank(model: str) -> int:
    """The place of a model in `ORDER`, from the base to the merged models."""
    family = _family(model)
    return ORDER.index(family) if family in ORDER else len(ORDER)


def _family(model: str) -> str:
    return model.partition("/")[0]


def _is_compared(first: str, second: str) -> bool:
    """Whether to compare a pair: a model and a reference, or learned and equal shares for a lambda.

    first, second: in `ORDER`.
    """
    if _family(first) == "uniform":
        return second == first.replace("uniform", "dense", 1)
    return first in REFERENCES and _family(second) != "uniform"


def _pair(first: str, second: str, results: Mapping[tuple[str, str], dict]) -> list[dict]:
    shared = [name for model, name in results if model == second and (first, name) in results]
    pairs = {name: (results[first, name], results[second, name]) for name in shared}
    pairs = {name: pair for name, pair in pairs.items() if _same_problems(*pair)}
    rows = []
    for tests in TEST_SETS:
        solved = {name: [_solved(r, tests) for r in pair] for name, pair in pairs.items()}
        if len(solved) > 1:
            solved[POOLED] = [list(chain(*lists)) for lists in zip(*solved.values(), strict=True)]
        for name, (before, after) in solved.items():
            row = {"first": first, "second": second, "dataset": name, "tests": tests}
            rows.append(row | asdict(compare(before, after)))
    return rows


def _same_problems(first: dict, second: dict) -> bool:
    names = [[row["task_id"] for row in result["problems"]] for result in (first, second)]
    return first["dataset"]["sha256"] == second["dataset"]["sha256"] and names[0] == names[1]


def _solved(result: dict, tests: str) -> list[bool]:
    """For each problem, whether most of its samples solve it."""
    return [share > 0.5 for share in solved_shares(result, tests)]


def legend(results: Iterable[dict]) -> str:
    """An explanation of the table of comparisons, in a few lines."""
    return LEGEND + OF_SAMPLES * any(has_several_samples(result) for result in results)


def about_all_tests(table):
    """The rows for base + extra tests."""
    return table[table["tests"] == "plus"]


def readable_comparisons(table):
    """The table's rows for base + extra tests, as texts. The second model of a row comes first."""
    shown = about_all_tests(table)
    texts = shown[["second", "first", "dataset"]].set_axis(["model", "against", "dataset"], axis=1)
    percent = {name: 100 * shown[name] for name in ("difference", "low", "high")}
    texts["difference"] = [f"{value:+.1f}" for value in percent["difference"]]
    texts["95% interval"] = [
        f"{low:+.1f} to {high:+.1f}"
        for low, high in zip(percent["low"], percent["high"], strict=True)
    ]
    texts["p"] = [p_text(value).removeprefix("= ") for value in shown["p_value"]]
    counts = shown[["both", "only_second", "only_first", "neither"]].itertuples(index=False)
    texts["both, model, against, none"] = [", ".join(map(str, row)) for row in counts]
    texts["needed"] = shown["needed"].map("{:.0f}".format, na_action="ignore").fillna("")
    return texts


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
