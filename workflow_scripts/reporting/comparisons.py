"""The pairs of models that are compared, on each data set and on all together."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from itertools import chain, combinations

from workflow_scripts.evaluation.ground_truth import TEST_SETS
from workflow_scripts.evaluation.result import has_several_samples, solved_shares
from workflow_scripts.reporting.statistics import Comparison, compare

REFERENCES = ("base", "sft", "moe_sft")  # what the models after them are compared with
ORDER = ("base", "moe", "sft", "moe_sft", "uniform", "dense")
POOLED = "all"
COLUMNS = ["first", "second", "dataset", "tests", *(field.name for field in fields(Comparison))]
LEGEND = """\
By base + extra tests, on the same problems. +10.0 means: the row's model solves 10 points (% of the
problems) more than the one that it stands against. 95% interval: Tango's score interval for paired
shares. p: exact McNemar test; where the two disagree, it decides. Interval and p are those of one
row alone. Then: how many problems both solve, only the model, only the other, none. Needed: with so
many problems, such a difference would be shown at the 5% level four times in five.
"""
OF_SAMPLES = "Of several samples: a problem is solved where most of them pass.\n"


def comparison_table(results: Mapping[tuple[str, str], dict]):
    """A pandas data frame with a row for each pair of models, data set and set of tests.

    results: by model's name and data set's name. Both models of a pair must have been asked the
    same problems. Several data sets are pooled too.
    """
    import pandas as pd

    models = sorted(dict.fromkeys(model for model, _ in results), key=_rank)
    pairs = [pair for pair in combinations(models, 2) if _is_compared(*pair)]
    pairs.sort(key=lambda pair: models.index(pair[1]))
    rows = [row for first, second in pairs for row in _pair(first, second, results)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rank(model: str) -> int:
    """Where a model stands among all: from the base to what was merged last."""
    family = _family(model)
    return ORDER.index(family) if family in ORDER else len(ORDER)


def _family(model: str) -> str:
    return model.partition("/")[0]


def _is_compared(first: str, second: str) -> bool:
    """Whether a pair matters: a model and a reference, or learned and equal shares at one lambda.

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
    """Which problems most samples solve; with one sample each, which it solves."""
    return [share > 0.5 for share in solved_shares(result, tests)]


def legend(results: Iterable[dict]) -> str:
    """What the table of comparisons says, in a few lines."""
    return LEGEND + OF_SAMPLES * any(has_several_samples(result) for result in results)


def about_all_tests(table):
    """The rows about all tests."""
    return table[table["tests"] == "plus"]


def readable_comparisons(table):
    """The table's rows about all tests, as texts. The second model of a row stands first."""
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
    """How large a p-value is: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
