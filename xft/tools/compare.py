"""Compare models by files of evaluations: EvalPlus's *_eval_results.json, or results of step eval.

docs/statistics.md explains the figures.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, takewhile
from pathlib import Path
from statistics import mean

from xft.cli.step import StepParser
from xft.common.errors import UserError, counted
from xft.common.foreign_text import one_line, without_markup
from xft.common.json_files import read_json
from xft.evaluation.result import RESULT, TEST_NAMES, solved_shares, tests_of, units_of
from xft.reporting import comparisons
from xft.reporting.comparisons import SCORES
from xft.reporting.run_table import Subject, Values
from xft.reporting.statistics import interval
from xft.reporting.summaries import to_markdown
from xft.reporting.verdict import name_list

PASS = "pass"  # a status of EvalPlus
GENERATIONS = ".generations.jsonl"  # the end of the name of a step's samples
BY_ORIGINAL = "With --tests base it is by the original tests alone."
MOST_NAMED = 5  # problems
SAME = "Evaluate the models on the same ones"
EXPLANATION = """\
Each row compares two models on the same problems, by a paired bootstrap. Interval and p are not
corrected. Significant: p < 0.05 after Holm's correction for all rows. Problems needed: to find this
difference, or one of 2 points if it is smaller, in 80% of the cases; 0 if there are enough."""


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft compare", __doc__)
    meaning = "The evaluations of two or more models on the same problems."
    parser.path("files", "FILE", meaning, shared=True, nargs="+")
    parser.add_argument(
        "--tests",
        choices=TEST_NAMES,
        default=SCORES.tests,
        help="What a solution must pass. base: the original tests. plus: the extra tests too, "
        "where the evaluations have them. Default: plus.",
    )
    args = parser.parse_args(argv)
    files = list(dict.fromkeys(args.files))
    if len(files) < 2:
        raise UserError("there is nothing to compare. Name the files of two or more models")
    values, has_extra = read_values(files, args.tests)
    print(compared(sorted(values, key=lambda model: mean(model.values)), has_extra))


@dataclass(frozen=True)
class Evaluation:
    """What a file says of a model's answers.

    dataset: its name.
    shares: of samples that solve each problem, by the tests that were asked for.
    units: the names of the problems, or what they have in common with others.
    has_extra: whether these tests include the extra ones.
    versions: of the data set, by the kind of hash. Those of the same kind must be equal.
    """

    dataset: str
    shares: dict[str, float]
    units: list[str]
    has_extra: bool
    versions: dict[str, object]


def read_evaluation(file: Path, tests: str = SCORES.tests) -> Evaluation:
    """The evaluation in a file.

    tests: a set of them; "plus" for the original and the extra ones.

    Raises UserError if the file is missing, broken or of another form.
    """
    if ".jsonl" in file.suffixes:
        raise UserError(f"{file} holds samples, not their evaluation. {_where_evaluated(file)}")
    content = read_json(file)
    is_evalplus = "eval" in content
    if not is_evalplus:
        content = RESULT.read(file)
    writer = "evalplus.evaluate" if is_evalplus else f"step {RESULT.step}"
    try:
        found = (_of_evalplus if is_evalplus else _of_step)(content, tests)
        for name in (found.dataset, *found.shares, *found.units):
            name.encode()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not what {writer} writes: {error!r:.200}") from None
    if not found.shares:
        raise UserError(f"{file} has no problems")
    return found


def _where_evaluated(samples: Path) -> str:
    """A sentence on where the evaluation of samples is."""
    if samples.name.endswith(GENERATIONS):
        result = samples.with_name(samples.name.removesuffix(GENERATIONS) + ".json")
    else:
        # EvalPlus's own rule.
        result = samples.with_name(samples.name.replace(".jsonl", "_eval_results.json"))
        if not result.is_file():
            return f"`evalplus.evaluate --samples {samples}` writes it to {result}: name this file"
    return f"Name {result}"


def _of_step(content: dict, tests: str) -> Evaluation:
    names = dict.fromkeys(row["task_id"] for row in content["problems"])
    shares = dict(zip(names, solved_shares(content, tests), strict=True))
    has_extra = tests == SCORES.tests and len(tests_of(content)) > 1
    about = content["dataset"]
    versions = {"sha256": about["sha256"]}
    return Evaluation(about["name"], shares, units_of(content), has_extra, versions)


def _of_evalplus(content: dict, tests: str) -> Evaluation:
    # EvalPlus writes the problems in the order in which they were done.
    by_name = sorted(content["eval"].items(), key=lambda item: (len(item[0]), item[0]))
    if unsolved := [name for name, rows in by_name if not rows]:
        raise ValueError(f"no samples of {unsolved[0]}")
    is_plus = tests == SCORES.tests
    has_extra = is_plus and all(row["plus_status"] for _, rows in by_name for row in rows)
    shares = {name: mean(_is_solved(row, is_plus) for row in rows) for name, rows in by_name}
    dataset = next(iter(shares), "").partition("/")[0]
    return Evaluation(dataset, shares, [*shares], has_extra, {"hash": content["hash"]})


def _is_solved(row: dict, is_plus: bool) -> bool:
    """is_plus: whether the extra tests count, if there are any."""
    by_extra = row["plus_status"] if is_plus else None
    return row["base_status"] == PASS == (by_extra or PASS)


def read_values(files: Sequence[Path], tests: str = SCORES.tests) -> tuple[list[Values], bool]:
    """The solved shares of the problems of each file, and whether by extra tests too.

    tests: see `read_evaluation`.

    Raises UserError if a file is of no known form, or if the problems or tests of two files differ.
    """
    first, *others = (read_evaluation(file, tests) for file in files)
    versions: dict[str, tuple[Path, object]] = {}
    values = []
    for file, label, found in zip(files, labels(files), (first, *others), strict=True):
        _check_comparable(files[0], first, file, found)
        for kind, version in found.versions.items():
            other, known = versions.setdefault(kind, (file, version))
            if known != version:
                raise UserError(
                    f"{other} and {file} are about other versions of the problems or tests ({kind} "
                    f"{known!r:.80} and {version!r:.80}). {SAME}"
                )
        in_order = [found.shares[task] for task in first.shares]
        units = (first.dataset, *first.units)
        values.append(Values(Subject(label), None, first.dataset, SCORES.tests, units, in_order))
    return values, first.has_extra


def _check_comparable(first: Path, one: Evaluation, second: Path, two: Evaluation) -> None:
    """Raise UserError if two files are about different problems or tests."""
    if one.shares.keys() != two.shares.keys():
        pairs = ((first, one.shares.keys() - two.shares), (second, two.shares.keys() - one.shares))
        parts = [f"only {file} has {_some(names)}" for file, names in pairs if names]
        raise UserError(
            f"{first} and {second} are about different problems: {'; '.join(parts)}. {SAME}"
        )
    if one.has_extra != two.has_extra:
        with_extra, without = (first, second) if one.has_extra else (second, first)
        raise UserError(
            f"{first} and {second} are about different tests: {with_extra} has results of the "
            f"extra tests, and {without} has none. Evaluate both with them, or compare by the "
            "original tests alone: --tests base"
        )


def _some(names: Collection[str]) -> str:
    """The first of some problems, with their number."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    more = ", ..." if len(ordered) > MOST_NAMED else ""
    named = one_line(", ".join(ordered[:MOST_NAMED]))
    return f"{counted(len(ordered), 'problem')} ({named}{more})"


def labels(files: Sequence[Path]) -> list[str]:
    """The parts of some paths between what all have at the start and what all have at the end."""
    paths = [file.absolute().parts for file in files]
    start = _shared(paths)
    end = _shared([path[start:][::-1] for path in paths])
    middles = ["/".join(path[start : len(path) - end]) for path in paths]
    return [one_line(name) for name in (middles if all(middles) else map(str, files))]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all paths have in common at the start."""
    same = (len(set(parts)) == 1 for parts in zip(*paths, strict=False))
    return sum(takewhile(bool, same))


def compared(models: Sequence[Values], has_extra: bool) -> str:
    """The verdict in words, and the tables of scores and of differences, as Markdown.

    models: on the same problems; the best one is the last.
    has_extra: whether they passed extra tests too.
    """
    tests = TEST_NAMES["plus" if has_extra else "base"]
    rows = comparisons.comparison_table(models, partial(combinations, r=2))
    scores = []
    for model in reversed(models):
        ends = interval(model.values, model.units[1:])
        text = "{:.1%} ({:.1%} to {:.1%})".format(mean(model.values), *ends)
        scores.append(
            {"model": model.subject.label, "problems": len(model.values), f"pass@1, {tests}": text}
        )
    differences = list(comparisons.shown(SCORES, rows))
    corrected = comparisons.holm(rows["p_value"])
    for text, row, p_value in zip(differences, rows.itertuples(), corrected, strict=True):
        text["p, Holm"] = comparisons.p_text(p_value).removeprefix("= ")
        text["problems needed"] = f"{comparisons.more_evidence(row, len(rows))[0]:,.0f}"
    verdict = "".join(f"- {line}\n" for line in _verdict(rows, models))
    about = [f"pass@1 is by {tests}.", *([BY_ORIGINAL] if has_extra else [])]
    tables = [to_markdown(scores), to_markdown(differences)]
    return without_markup("\n".join([verdict, *tables]) + f"{' '.join(about)}\n{EXPLANATION}")


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
