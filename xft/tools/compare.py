"""Compare models by files of evaluations: EvalPlus's *_eval_results.json, or results of step eval.

docs/statistics.md explains the figures.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

from xft.cli.step import StepParser
from xft.common.errors import UserError, counted
from xft.common.foreign_text import one_line, without_markup
from xft.common.json_files import read_json, read_json_lines
from xft.evaluation.result import RESULT, TEST_NAMES, solved_shares, tests_of, units_of
from xft.reporting import comparisons
from xft.reporting.comparisons import SCORES
from xft.reporting.names import name_list
from xft.reporting.run_table import NamedModel, Values
from xft.reporting.statistics import interval
from xft.reporting.summaries import to_markdown
from xft.reporting.variants import answer_lines, find_answers

PASS = "pass"  # a status of EvalPlus
GENERATIONS = ".generations.jsonl"  # the end of the name of a step's samples
SOLUTIONS = ("solution", "completion")  # keys of a sample
OF_EVALPLUS = {"eval", "hash"}  # keys of an evaluation
OF_STEP = "format"
NOT_READ = (
    "is of a form that xft compare does not read. It reads *_eval_results.json of "
    "evalplus.evaluate, and results of step eval, such as results/eval/sft/humaneval.json"
)
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
    seeds_of: dict[NamedModel, list[Values]] = {}
    for of_seed in values:
        seeds_of.setdefault(of_seed.subject, []).append(of_seed)
    if control is None:
        print(compared(sorted(seeds_of.values(), key=_score), has_extra))
    else:
        print(answered(list(seeds_of.values()), has_extra))


def find_models(files: Sequence[Path], pattern: str | None) -> dict[Path, tuple[str, int | None]]:
    """The name and the seed of the model of each file.

    pattern: see --seeds. None: each file is a model.

    Raises UserError if the pattern lacks a part, if a file does not fit it, if two files fit it
    alike, or if the models have different seeds.
    """
    if pattern is None:
        return {file: (label, None) for file, label in zip(files, labels(files), strict=True)}
    form = _form_of_names(pattern)
    models: dict[Path, tuple[str, int]] = {}
    files_of: dict[tuple[str, int], Path] = {}  # by model
    for file in files:
        fits = form.fullmatch(file.as_posix())
        if fits is None:
            raise UserError(
                f"{file} does not fit --seeds {pattern}. {SEED} stands for a number, and {NAME} "
                "for a name without /"
            )
        model = one_line(fits["name"]), int(fits["seed"])
        if model in files_of:
            raise UserError(
                f"{files_of[model]} and {file} are both seed {model[1]} of {model[0]}. Let {NAME} "
                f"in --seeds {pattern} stand for the part in which their models differ"
            )
        models[file] = model
        files_of[model] = file
    _check_paired(files_of)
    return models


def _form_of_names(pattern: str) -> re.Pattern[str]:
    """The form of the files that fit --seeds, with the groups name and seed.

    Raises UserError if the pattern lacks a part.
    """
    parts = re.split(f"({re.escape(NAME)}|{re.escape(SEED)})", pattern)
    if sorted(parts[1::2]) != [NAME, SEED]:
        raise UserError(
            f"--seeds {pattern} must contain {NAME} and {SEED} once each, such as "
            f"'{NAME}_s{SEED}_eval_results.json'"
        )
    groups = {NAME: "(?P<name>[^/]+?)", SEED: "(?P<seed>[0-9]+)"}
    form = "(.*/)?"
    for part in parts:
        form += groups[part] if part in groups else re.escape(part)
    return re.compile(form)


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
    """The results of a model's answers in a file.

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
    if ".jsonl" in file.suffixes and _holds_samples(file):
        raise UserError(f"{file} holds samples, not their evaluation. {_where_evaluated(file)}")
    content = _content(file)
    if content.keys() >= OF_EVALPLUS:
        read, writer = _of_evalplus, "evalplus.evaluate"
    elif OF_STEP in content:
        read, writer = _of_step, f"step {RESULT.step}"
        content = RESULT.read(file)
    else:
        raise UserError(f"{file} {NOT_READ}")
    try:
        evaluation = read(content, tests)
        for name in (evaluation.dataset, *evaluation.shares, *evaluation.units):
            name.encode()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not what {writer} writes: {error!r:.200}") from None
    if not evaluation.shares:
        raise UserError(f"{file} has no problems")
    return evaluation


def _content(file: Path) -> dict:
    """The JSON object in a file. Raises UserError, also if it is of a form that is not read."""
    try:
        return read_json(file)
    except UserError:
        if file.suffix == ".json" or not file.is_file():
            raise
        raise UserError(f"{file} {NOT_READ}") from None


def _holds_samples(file: Path) -> bool:
    """Whether a file has samples of EvalPlus or of step eval, by its first line."""
    try:
        _, first = next(read_json_lines(file), (0, None))
    except UserError:
        return False
    return isinstance(first, dict) and "task_id" in first and not first.keys().isdisjoint(SOLUTIONS)


def _where_evaluated(samples: Path) -> str:
    """A sentence on where the evaluation of samples is."""
    if samples.name.endswith(GENERATIONS):
        result = samples.with_name(samples.name.removesuffix(GENERATIONS) + ".json")
        return f"Name {result}"
    # EvalPlus's own rule.
    result = samples.with_name(samples.name.replace(".jsonl", "_eval_results.json"))
    if result.is_file():
        return f"Name {result}"
    return f"`evalplus.evaluate --samples {samples}` writes it to {result}: name this file"


def _of_step(content: dict, tests: str) -> Evaluation:
    names = dict.fromkeys(row["task_id"] for row in content["problems"])
    shares = dict(zip(names, solved_shares(content, tests), strict=True))
    has_extra = tests == SCORES.tests and len(tests_of(content)) > 1
    dataset = content["dataset"]
    versions = {"sha256": dataset["sha256"]}
    return Evaluation(dataset["name"], shares, units_of(content), has_extra, versions)


def _of_evalplus(content: dict, tests: str) -> Evaluation:
    is_plus = tests == SCORES.tests
    has_extra = is_plus
    shares = {}
    # EvalPlus writes the problems in the order in which they were done.
    for name in sorted(content["eval"], key=_length_and_name):
        rows = content["eval"][name]
        if not rows:
            raise ValueError(f"no samples of {name}")
        if is_plus and not all(row["plus_status"] for row in rows):
            has_extra = False
        shares[name] = mean(_is_solved(row, is_plus) for row in rows)
    dataset = next(iter(shares), "").partition("/")[0]
    return Evaluation(dataset, shares, list(shares), has_extra, {"hash": content["hash"]})


def _length_and_name(name: str) -> tuple[int, str]:
    """Sorts the names of problems by their numbers: A/9 comes before A/10."""
    return len(name), name


def _is_solved(row: dict, is_plus: bool) -> bool:
    """Whether a sample passes. is_plus: whether the extra tests count, if there are any."""
    if row["base_status"] != PASS:
        return False
    has_extra = is_plus and bool(row["plus_status"])
    return not has_extra or row["plus_status"] == PASS


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
    evaluations = {file: read_evaluation(file, tests) for file in models}
    first_file, first = next(iter(evaluations.items()))
    for file, evaluation in evaluations.items():
        _check_comparable(first_file, first, file, evaluation)
    _check_versions(evaluations)
    values = []
    for file, evaluation in evaluations.items():
        name, seed = models[file]
        subject = NamedModel(name) if control is None else NamedModel("", (name,), name, control)
        shares = [evaluation.shares[problem] for problem in first.shares]
        units = (first.dataset, *first.units)
        values.append(Values(subject, seed, first.dataset, SCORES.tests, units, shares))
    return values, first.has_extra


def _check_versions(evaluations: Mapping[Path, Evaluation]) -> None:
    """Raise UserError if two files are about different versions of the problems or tests."""
    known: dict[str, tuple[Path, object]] = {}  # by the kind of hash
    for file, evaluation in evaluations.items():
        for kind, version in evaluation.versions.items():
            other_file, other_version = known.setdefault(kind, (file, version))
            if other_version != version:
                raise UserError(
                    f"{other_file} and {file} are about other versions of the problems or tests "
                    f"({kind} {other_version!r:.80} and {version!r:.80}). {SAME}"
                )


def _check_comparable(
    first: Path, of_first: Evaluation, second: Path, of_second: Evaluation
) -> None:
    """Raise UserError if two files are about different problems or tests."""
    only_first = of_first.shares.keys() - of_second.shares.keys()
    only_second = of_second.shares.keys() - of_first.shares.keys()
    if only_first or only_second:
        parts = []
        for file, names in ((first, only_first), (second, only_second)):
            if names:
                parts.append(f"only {file} has {_some(names)}")
        raise UserError(
            f"{first} and {second} are about different problems: {'; '.join(parts)}. {SAME}"
        )
    if of_first.has_extra != of_second.has_extra:
        with_extra, without = (first, second) if of_first.has_extra else (second, first)
        raise UserError(
            f"{first} and {second} are about different tests: {with_extra} has results of the "
            f"extra tests, and {without} has none. Evaluate both with them, or compare by the "
            "original tests alone: --tests base"
        )


def _some(names: Collection[str]) -> str:
    """The first of some problems, with their number."""
    ordered = sorted(names, key=_length_and_name)
    more = ", ..." if len(ordered) > MOST_NAMED else ""
    named = one_line(", ".join(ordered[:MOST_NAMED]))
    return f"{counted(len(ordered), 'problem')} ({named}{more})"


def labels(files: Sequence[Path]) -> list[str]:
    """The parts of some paths between what all have at the start and what all have at the end."""
    paths = [file.absolute().parts for file in files]
    start = _shared(paths)
    end = _shared([path[start:][::-1] for path in paths])
    names = ["/".join(path[start : len(path) - end]) for path in paths]
    if not all(names):
        names = [str(file) for file in files]
    return [one_line(name) for name in names]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """The number of parts that all paths have in common at the start."""
    number = 0
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        number += 1
    return number


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
        row = {"model": model[0].subject.label, "problems": len(model[0].values)}
        if has_seeds:
            row["seeds"] = len(model)
        row[f"pass@1, {tests}"] = _score_text(model)
        scores.append(row)
    differences = list(comparisons.difference_rows(SCORES, rows))
    corrected = comparisons.holm(rows["p_value"])
    for text, row, p_value in zip(differences, rows.itertuples(), corrected, strict=True):
        text["p, Holm"] = comparisons.p_text(p_value).removeprefix("= ")
        if not has_seeds:
            text["problems needed"] = f"{comparisons.more_evidence(row, len(rows))[0]:,.0f}"
    by_which_tests = f"pass@1 is by {tests}."
    if has_extra:
        by_which_tests += f" {BY_ORIGINAL}"
    if has_seeds:
        explanation = EXPLANATION.format(method="random effects of problems and seeds")
    else:
        explanation = EXPLANATION.format(method="a paired bootstrap") + NEEDED
    tables = "\n".join([lines, to_markdown(scores), to_markdown(differences)])
    return without_markup(f"{tables}{by_which_tests}\n{explanation}")


def _score_text(model: Sequence[Values]) -> str:
    """pass@1, its interval over the problems for these seeds, and the deviation of the seeds."""
    shares = []
    units = []
    for of_seed in model:
        shares += of_seed.values
        units += of_seed.units[1:]
    low, high = interval(shares, units)
    of_seeds = [mean(of_seed.values) for of_seed in model]
    deviation = f"; seeds ± {stdev(of_seeds):.1%}" if len(of_seeds) > 1 else ""
    return f"{_score(model):.1%} ({low:.1%} to {high:.1%}{deviation})"


def _verdict(rows, models: Sequence[Sequence[Values]]) -> Iterator[str]:
    """Which model is the best one, and how sure that is."""
    *others, best = (model[0].subject.label for model in models)
    of_best = [row for row in rows.itertuples() if row.second == best]
    undecided = [row for row in of_best if not row.significant]
    if undecided:
        nearest = undecided[-1]
        names = name_list([row.first for row in undecided])
        yield f"Not decided: {best} does not solve significantly more problems than {names}."
        yield comparisons.comparison_sentence(nearest, len(rows))
        advice = comparisons.more_evidence(nearest, len(rows))[1]
        if advice:
            yield advice
    else:
        yield f"Take {best}: it solves significantly more problems than {name_list(others)}."
        yield comparisons.comparison_sentence(of_best[-1], len(rows))
    yield from comparisons.sentences(SCORES, rows)
