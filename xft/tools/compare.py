"""Compare models by files of evaluations: EvalPlus's *_eval_results.json, or results of step eval.

docs/statistics.md explains the figures.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, takewhile
from pathlib import Path
from statistics import mean

from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.common.json_files import read_json
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
    parser = StepParser("xft compare", __doc__)
    meaning = "The evaluations of two or more models on the same problems."
    parser.path("files", "FILE", meaning, shared=True, nargs="+")
    files = list(dict.fromkeys(parser.parse_args(argv).files))
    if len(files) < 2:
        raise UserError("there is nothing to compare. Name the files of two or more models")
    print(compared(sorted(read_values(files), key=lambda model: mean(model.values))))


def read_shares(file: Path) -> tuple[str, dict[str, float], list[str], dict[str, object]]:
    """The name of the data set; the share of samples that solve each problem, by all tests; the
    names of the units; and what must be the same in two files.

    Raises UserError if the file is missing, broken or of another form.
    """
    content = read_json(file)
    if "eval" not in content:
        result = RESULT.read(file)
        names = dict.fromkeys(row["task_id"] for row in result["problems"])
        shares = dict(zip(names, solved_shares(result, SCORES.tests), strict=True))
        known = {"extra": len(tests_of(result)) > 1, "sha256": result["dataset"]["sha256"]}
        return result["dataset"]["name"], shares, units_of(result), known
    try:
        # EvalPlus writes the problems in the order in which they were done.
        by_name = sorted(content["eval"].items(), key=lambda item: (len(item[0]), item[0]))
        shares = {name: mean(map(_is_solved, rows)) for name, rows in by_name}
        has_extra = all(row["plus_status"] for _, rows in by_name for row in rows)
        name, known = by_name[0][0], {"extra": has_extra, "hash": content["hash"]}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not what evalplus.evaluate writes: {error!r:.200}") from None
    return name.partition("/")[0], shares, [*shares], known


def _is_solved(row: dict) -> bool:
    return row["base_status"] == PASS == (row["plus_status"] or PASS)


def read_values(files: Sequence[Path]) -> Iterator[Values]:
    """The solved shares of the problems of each file.

    Raises UserError if a file is of no known form, or if the problems or tests of two files differ.
    """
    name, tasks, units, same = read_shares(files[0])
    for file, label in zip(files, labels(files), strict=True):
        _, shares, _, known = read_shares(file)
        is_other = any(same.setdefault(key, known[key]) != known[key] for key in known)
        if is_other or shares.keys() != tasks.keys():
            raise UserError(
                f"{files[0]} and {file} are about different problems or tests, or other versions "
                "of them. Evaluate the models on the same ones"
            )
        in_order = [shares[task] for task in tasks]
        yield Values(Subject(label), None, name, SCORES.tests, (name, *units), in_order)


def labels(files: Sequence[Path]) -> list[str]:
    """The parts of some paths between what all have at the start and what all have at the end."""
    paths = [file.absolute().parts for file in files]
    start = _shared(paths)
    end = _shared([path[start:][::-1] for path in paths])
    middles = ["/".join(path[start : len(path) - end]) for path in paths]
    return middles if all(middles) else [*map(str, files)]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all paths have in common at the start."""
    same = (len(set(parts)) == 1 for parts in zip(*paths, strict=False))
    return sum(takewhile(bool, same))


def compared(models: Sequence[Values]) -> str:
    """The verdict in words, and the tables of scores and of differences, as Markdown.

    models: on the same problems; the best one is the last.
    """
    rows = comparisons.comparison_table(models, partial(combinations, r=2))
    scores = []
    for model in reversed(models):
        ends = interval(model.values, model.units[1:])
        text = "{:.1%} ({:.1%} to {:.1%})".format(mean(model.values), *ends)
        scores.append({"model": model.subject.label, "problems": len(model.values), "pass@1": text})
    differences = list(comparisons.shown(SCORES, rows))
    corrected = comparisons.holm(rows["p_value"])
    for text, row, p_value in zip(differences, rows.itertuples(), corrected, strict=True):
        text["p, Holm"] = comparisons.p_text(p_value).removeprefix("= ")
        text["problems needed"] = f"{comparisons.more_evidence(row, len(rows))[0]:,.0f}"
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
