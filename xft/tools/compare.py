"""Compare models by files of evaluations: EvalPlus's *_eval_results.json, or results of step eval.

docs/statistics.md explains the figures.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean

from xft.checkpoints.strict_json import read_json
from xft.cli import flags
from xft.common.errors import UserError
from xft.evaluation.judging import FAILED, PASSED
from xft.evaluation.result import RESULT, solved_shares, tests_of, units_of
from xft.reporting import comparisons
from xft.reporting.comparisons import SCORES
from xft.reporting.run_table import Subject, Values
from xft.reporting.statistics import interval
from xft.reporting.summaries import to_markdown
from xft.reporting.verdict import name_list

PASS = "pass"  # a status of EvalPlus
EXPLANATION = """\
Each row compares two models on the same problems, by a paired bootstrap. Interval and p are not
corrected. Significant: p < 0.05 after Holm's correction for all rows. Problems needed: to find this
difference, or one of 2 points if it is smaller, in 80% of the cases; 0 if there are enough."""


def main(argv: list[str] | None = None) -> None:
    parser = flags.StepParser("xft compare", __doc__)
    meaning = "The evaluations of two or more models on the same problems."
    parser.path("files", "FILE", meaning, shared=True, nargs="+")
    files = list(dict.fromkeys(parser.parse_args(argv).files))
    if len(files) < 2:
        raise UserError("there is nothing to compare. Name the files of two or more models")
    print(compared(sorted(read_values(files), key=lambda model: mean(model.values))))


def read_result(file: Path) -> dict:
    """The content of an evaluation's file; of EvalPlus's only what a comparison needs.

    Raises UserError if the file is missing, broken or of another form.
    """
    content = read_json(file)
    if "eval" not in content:
        return RESULT.read(file)
    try:
        # EvalPlus writes the problems in the order in which they were done.
        by_name = sorted(content["eval"].items(), key=lambda item: (len(item[0]), item[0]))
        answers = [(name, row) for name, rows in by_name for row in rows]
        problems = [
            {"task_id": name, "base": _status(row["base_status"])}
            | {"plus": _status(row["base_status"], row["plus_status"] or PASS)}
            for name, row in answers
        ]
        dataset = {"name": by_name[0][0].partition("/")[0], "sha256": content["hash"]}
        dataset["extra_tests"] = all(row["plus_status"] for _, row in answers)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not what evalplus.evaluate writes: {error!r:.200}") from None
    return {"dataset": dataset, "problems": problems}


def _status(*statuses: str) -> str:
    return PASSED if {*statuses} == {PASS} else FAILED


def read_values(files: Sequence[Path]) -> Iterator[Values]:
    """The solved shares of the problems of each file.

    Raises UserError if a file is of no known form, or if the problems or tests of two files differ.
    """
    results = [read_result(file) for file in files]
    first, versions = results[0], {}
    units = first["dataset"]["name"], *units_of(first)
    tasks = dict.fromkeys(row["task_id"] for row in first["problems"])
    for file, result in zip(files, results, strict=True):
        known = dict.fromkeys(row["task_id"] for row in result["problems"])
        version = result["dataset"]["sha256"]  # EvalPlus's hash is of another kind
        is_same = versions.setdefault("format" in result, version) == version
        if not is_same or known.keys() != tasks.keys() or tests_of(result) != tests_of(first):
            raise UserError(
                f"{files[0]} and {file} are about different problems or tests, or other versions "
                "of them. Evaluate the models on the same ones"
            )
        shares = dict(zip(known, solved_shares(result, SCORES.tests), strict=True))
        in_order = [shares[task] for task in tasks]
        yield Values(Subject(str(file)), None, units[0], SCORES.tests, units, in_order)


def compared(models: Sequence[Values]) -> str:
    """The verdict in words, and the tables of scores and of differences, as Markdown.

    models: on the same problems; the best one is the last.
    """
    rows = comparisons.comparison_table(models, partial(combinations, r=2))
    scores, differences = [], []
    for model in reversed(models):
        shown = [100 * v for v in (mean(model.values), *interval(model.values, model.units[1:]))]
        text = "{:.1f} % ({:.1f} to {:.1f})".format(*shown)
        scores.append({"model": model.subject.label, "problems": len(model.values), "pass@1": text})
    texts, p_values = comparisons.shown(SCORES, rows), comparisons.holm(rows["p_value"])
    for row, text, p_value in zip(rows.itertuples(), texts, p_values, strict=True):
        needed, _ = comparisons.more_evidence(row, len(rows))
        p_text = comparisons.p_text(p_value).removeprefix("= ")
        differences.append(text | {"p, Holm": p_text, "problems needed": f"{needed:,.0f}"})
    verdict = "".join(f"- {line}\n" for line in _verdict(rows, models))
    return "\n".join([verdict, to_markdown(scores), to_markdown(differences) + EXPLANATION])


def _verdict(rows, models: Sequence[Values]) -> Iterator[str]:
    """Which model is the best one, and how sure that is."""
    *others, best = (model.subject.label for model in models)
    of_best = [row for row in rows.itertuples() if row.second == best]
    if is_open := [row for row in of_best if not row.significant]:
        names = name_list([row.first for row in is_open])
        yield f"Not decided: {best} does not solve significantly more problems than {names}."
    else:
        yield f"Take {best}: it solves significantly more problems than {name_list(others)}."
    nearest = [*of_best, *is_open][-1]
    yield comparisons.in_words(nearest, len(rows))
    yield from filter(None, [is_open and comparisons.more_evidence(nearest, len(rows))[1]])
    yield from comparisons.sentences(SCORES, rows)
