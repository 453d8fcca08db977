"""Compare models by files of evaluations: EvalPlus's *_eval_results.json, or results of step eval.

docs/statistics.md explains the figures.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path
from statistics import mean, stdev

from xft.cli.step import StepParser
from xft.common.errors import UserError, counted
from xft.common.foreign_text import one_line, without_markup
from xft.common.json_files import read_json
from xft.evaluation.result import RESULT, TEST_NAMES, solved_shares, tests_of, units_of
from xft.reporting import comparisons
from xft.reporting.comparisons import SCORES
from xft.reporting.run_table import NamedModel, Values
from xft.reporting.statistics import interval
from xft.reporting.summaries import to_markdown
from xft.reporting.variants import answer_lines, find_answers
from xft.reporting.verdict import name_list

PASS = "pass"  # a status of EvalPlus
GENERATIONS = ".generations.jsonl"  # the end of the name of a step's samples
BY_ORIGINAL = "With --tests base it is by the original tests alone."
MOST_NAMED = 5  # problems
SAME = "Evaluate the models on the same ones"
NAME, SEED = "{name}", "{seed}"  # in a pattern of file names
ONE_SEED = (
    "With one seed, this compares trained models, and another seed gives other ones. --seeds "
    "compares methods, by evaluations of several seeds."
)
EXPLANATION = """\
Each row compares two models on the same problems, by {method}.
Interval and p are not corrected. Significant: p < 0.05 after Holm's correction for all rows."""
NEEDED = """
Problems needed: to find this difference, or one of 2 points if it is smaller, in 80% of the cases;
0 if there are enough."""


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft compare", __doc__)
    meaning = "The evaluations of two or more models on the same problems."
    parser.path("files", "FILE", meaning, shared=True, nargs="+")
    parser.add_argument(
        "--control",
        metavar="MODEL",
        help="Compare each other model with this one alone, and say whether it is better: one of "
        "the files, or a name by --seeds. Default: compare all pairs.",
    )
    parser.add_argument(
        "--seeds",
        metavar="PATTERN",
        help=f"How the names of the files end, such as '{NAME}_s{SEED}_eval_results.json'. Files "
        f"that differ in {SEED} alone, a number, are seeds of the same model, {NAME}.",
    )
    parser.add_argument(
        "--tests",
        choices=TEST_NAMES,
        default=SCORES.tests,
        help="What a solution must pass. base: the original tests. plus: the extra tests too, "
        "where the evaluations have them. Default: plus.",
    )
    args = parser.parse_args(argv)
    files = list(dict.fromkeys(args.files))
    models = find_models(files, args.seeds)
    names = list(dict.fromkeys(name for name, _ in models.values()))
    if len(names) < 2:
        raise UserError("there is nothing to compare. Name the files of two or more models")
    control = None if args.control is None else find_control(args.control, models)
    values, has_extra = read_values(models, args.tests, control)
    by_model = {}
    for of_seed in values:
        by_model.setdefault(of_seed.subject, []).append(of_seed)
    if control is None:
        ordered = sorted(by_model.values(), key=_score)
        print(compared(ordered, has_extra))
    else:
        print(answered([*by_model.values()], has_extra))


def find_models(files: Sequence[Path], pattern: str | None) -> dict[Path, tuple[str, int | None]]:
    """The name and the seed of the model of each file.

    pattern: see --seeds. None: each file is a model.

    Raises UserError if the pattern lacks a part, if a file does not fit it, if two files fit it
    alike, or if the models have different seeds.
    """
    if pattern is None:
        return {file: (label, None) for file, label in zip(files, labels(files), strict=True)}
    parts = re.split(f"({re.escape(NAME)}|{re.escape(SEED)})", pattern)
    if sorted(parts[1::2]) != [NAME, SEED]:
        raise UserError(
            f"--seeds {pattern} must contain {NAME} and {SEED} once each, such as "
            f"'{NAME}_s{SEED}_eval_results.json'"
        )
    groups = {NAME: "(?P<name>[^/]+?)", SEED: "(?P<seed>[0-9]+)"}
    form = re.compile("(.*/)?" + "".join(groups.get(part) or re.escape(part) for part in parts))
    models: dict[Path, tuple[str, int]] = {}
    of_models: dict[tuple[str, int], Path] = {}
    for file in files:
        fits = form.fullmatch(file.as_posix())
        if not fits:
            raise UserError(
                f"{file} does not fit --seeds {pattern}. {SEED} stands for a number, and {NAME} "
                "for a name without /"
            )
        model = one_line(fits["name"]), int(fits["seed"])
        if model in of_models:
            raise UserError(
                f"{of_models[model]} and {file} are both seed {model[1]} of {model[0]}. Let {NAME} "
                f"in --seeds {pattern} stand for the part in which their models differ"
            )
        models[file], of_models[model] = model, file
    _check_paired(of_models)
    return models


def _check_paired(models: Collection[tuple[str, int]]) -> None:
    """Raise UserError if two models do not have the same seeds."""
    seeds: dict[str, list[int]] = {}
    for name, seed in sorted(models):
        seeds.setdefault(name, []).append(seed)
    (first, of_first), *others = seeds.items()
    for name, of_other in others:
        if of_other != of_first:
            raise UserError(
                f"the seeds do not pair: {first} has {_numbers(of_first)}, and {name} has "
                f"{_numbers(of_other)}. Name files of the same seeds for each model"
            )


def _numbers(seeds: Sequence[int]) -> str:
    return name_list([str(seed) for seed in seeds])


def find_control(control: str, models: Mapping[Path, tuple[str, int | None]]) -> str:
    """The name of the control. Raises UserError if no model has this name.

    control: a name, or a file.
    """
    names = list(dict.fromkeys(name for name, _ in models.values()))
    if Path(control) in models:
        return models[Path(control)][0]
    if control in names:
        return control
    raise UserError(
        f"--control {control}: no model has this name. Name one of {name_list(names)}, or add its "
        "file to the others"
    )


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


def read_values(
    models: Mapping[Path, tuple[str, int | None]],
    tests: str = SCORES.tests,
    control: str | None = None,
) -> tuple[list[Values], bool]:
    """The solved shares of the problems of each file, and whether by extra tests too.

    models: the name and the seed of each file's model.
    tests: see `read_evaluation`.
    control: the name of the model that the others are compared with, as variants with theirs.

    Raises UserError if a file is of no known form, or if the problems or tests of two files differ.
    """
    files = [*models]
    first, *others = (read_evaluation(file, tests) for file in files)
    versions: dict[str, tuple[Path, object]] = {}
    values = []
    for file, found in zip(files, (first, *others), strict=True):
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
        name, seed = models[file]
        subject = NamedModel(name) if control is None else NamedModel("", (name,), name, control)
        values.append(Values(subject, seed, first.dataset, SCORES.tests, units, in_order))
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


def compared(models: Sequence[Sequence[Values]], has_extra: bool) -> str:
    """The verdict in words, and the tables of scores and of differences, as Markdown.

    models: of each the values of its seeds, on the same problems; the best one is the last.
    has_extra: whether they passed extra tests too.
    """
    values = [of_seed for model in models for of_seed in model]
    rows = comparisons.comparison_table(values, _all_pairs)
    lines = "".join(f"- {line}\n" for line in _verdict(rows, models))
    return _text(lines, models, rows, has_extra)


def answered(models: Sequence[Sequence[Values]], has_extra: bool) -> str:
    """As `compared`, with an answer for each model that has a control."""
    values = [of_seed for model in models for of_seed in model]
    subjects = {model[0].subject.label: model[0].subject for model in models}
    controls = {subject.variant: subject.control for subject in subjects.values()}
    rows = comparisons.comparison_table(values)
    names = {variant: variant for variant in controls}
    answers = find_answers(rows, subjects, controls, names, plan="")
    lines = ""
    for conclusion, reasons in answer_lines(answers, ONE_SEED):
        lines += f"- {conclusion}\n" + "".join(f"  - {line}\n" for line in reasons)
    return _text(lines, sorted(models, key=_score), rows, has_extra)


def _all_pairs(subjects: Sequence[NamedModel]) -> Iterator[tuple[NamedModel, NamedModel]]:
    return combinations(dict.fromkeys(subjects), 2)


def _score(model: Sequence[Values]) -> float:
    """The share of the problems that a model solves, over its seeds."""
    return mean(mean(of_seed.values) for of_seed in model)


def _text(lines: str, models: Sequence[Sequence[Values]], rows, has_extra: bool) -> str:
    """Lines, and the tables. models: the best one is the last. rows: of the comparisons."""
    tests = TEST_NAMES["plus" if has_extra else "base"]
    has_seeds = any(len(model) > 1 for model in models)
    scores = []
    for model in reversed(models):
        about = {"model": model[0].subject.label, "problems": len(model[0].values)}
        seeds = {"seeds": len(model)} if has_seeds else {}
        scores.append(about | seeds | {f"pass@1, {tests}": _score_text(model)})
    differences = list(comparisons.difference_rows(SCORES, rows))
    corrected = comparisons.holm(rows["p_value"])
    for text, row, p_value in zip(differences, rows.itertuples(), corrected, strict=True):
        text["p, Holm"] = comparisons.p_text(p_value).removeprefix("= ")
        if not has_seeds:
            text["problems needed"] = f"{comparisons.more_evidence(row, len(rows))[0]:,.0f}"
    about = [f"pass@1 is by {tests}.", *([BY_ORIGINAL] if has_extra else [])]
    tables = [to_markdown(scores), to_markdown(differences)]
    method = "random effects of problems and seeds" if has_seeds else "a paired bootstrap"
    explanation = EXPLANATION.format(method=method) + ("" if has_seeds else NEEDED)
    return without_markup("\n".join([lines, *tables]) + f"{' '.join(about)}\n{explanation}")


def _score_text(model: Sequence[Values]) -> str:
    """pass@1, its interval over the problems for these seeds, and the deviation of the seeds."""
    shares = [share for of_seed in model for share in of_seed.values]
    low, high = interval(shares, [name for of_seed in model for name in of_seed.units[1:]])
    of_seeds = [mean(of_seed.values) for of_seed in model]
    deviation = f"; seeds ± {stdev(of_seeds):.1%}" if len(of_seeds) > 1 else ""
    return f"{_score(model):.1%} ({low:.1%} to {high:.1%}{deviation})"


def _verdict(rows, models: Sequence[Sequence[Values]]) -> Iterator[str]:
    """Which model is the best one, and how sure that is."""
    *others, best = (model[0].subject.label for model in models)
    of_best = [row for row in rows.itertuples() if row.second == best]
    if is_open := [row for row in of_best if not row.significant]:
        names = name_list([row.first for row in is_open])
        yield f"Not decided: {best} does not solve significantly more problems than {names}."
    else:
        yield f"Take {best}: it solves significantly more problems than {name_list(others)}."
    nearest = [*of_best, *is_open][-1]
    yield comparisons.comparison_sentence(nearest, len(rows))
    yield from filter(None, [is_open and comparisons.more_evidence(nearest, len(rows))[1]])
    yield from comparisons.sentences(SCORES, rows)
