"""Decides which model to take, by pass@1 on original + extra tests.

Base is the default. A model is recommended only if it is significantly above base. Of several such
models, the best one is that with the most solved problems. If these are equal, the lowest
validation loss decides, and then the order of the tables.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import mean

from xft.common.errors import counted
from xft.config.sections import UNTUNED, kind_of
from xft.evaluation.result import advice, left_out, outcomes
from xft.evaluation.scoring import OUTCOMES, PASSED
from xft.hub.named_sets import set_in_words, unused
from xft.reporting.comparisons import (
    LOSSES,
    OF_MODELS,
    POOLED,
    SCORES,
    comparison_sentence,
    more_evidence,
    overall_rows,
    pooled_sets,
)
from xft.reporting.findings import could_find, figures_text, finding_text
from xft.reporting.names import name_list, sets_text
from xft.reporting.run_table import NamedModel, Result
from xft.training.at_end import still_falls

BASE, PLAIN, MERGED = "base", "sft", "dense"
NAMED = 4  # models at most in a sentence
HOURS_HINT = "xft plan estimates the hours."
ONE_SEED = (
    'With one seed, "significant" is about these trained models, and another seed gives other '
    "ones. `seeds: [42, 43, 44]` compares the methods."
)


@dataclass(frozen=True)
class EvaluatedModel:
    """An evaluated model, over its seeds and the data sets.

    outcomes: the numbers of its answers, see `result.outcomes`.
    loss: the mean validation loss; infinite if it is unknown.
    seeds: their number.
    change: the mean of `change_at_end` of its trainings; None if it is unknown.
    by_set: for each data set the number of its answers that pass, and the number of all.
    left_out: the number of problems that the configuration leaves out, but for a limit.
    """

    subject: NamedModel
    outcomes: Mapping[str, int]
    loss: float
    seeds: int
    change: float | None = None
    by_set: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    left_out: int = 0

    @property
    def label(self) -> str:
        """Its name in the tables."""
        return self.subject.label

    @property
    def kind(self) -> str:
        """Such as `sft`, without values of a variant or a sweep; `dense` of each merge."""
        return kind_of(self.subject.model)

    @property
    def solved(self) -> float:
        """The share of its answers that pass."""
        return self.outcomes[PASSED] / sum(self.outcomes.values())

    @property
    def solves(self) -> set[str]:
        """The data sets in which it solves a problem."""
        return {name for name, (passed, _) in self.by_set.items() if passed}

    def solved_of(self, datasets: Iterable[str]) -> float:
        """The share of its answers for data sets that pass. Raises KeyError if one is unknown."""
        passed, answers = zip(*(self.by_set[name] for name in datasets), strict=True)
        return sum(passed) / sum(answers)


@dataclass(frozen=True)
class Verdict:
    """Which model to take.

    decision: a sentence.
    reasons: sentences on how sure it is, and on what may be done next.
    pair: the labels of the two models that were compared last; none if nothing was measured.
    problems: that were evaluated.
    needed: the number of problems that would decide; 0 if it is decided.
    datasets: those that the last comparison counts.
    shares: of answers for them that pass, of base and of the pair, by label. A model that was not
    evaluated on all of them has none.
    """

    decision: str
    reasons: tuple[str, ...]
    pair: tuple[str, ...] = ()
    problems: int = 0
    needed: float = 0
    datasets: tuple[str, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)


def find_candidates(
    evaluations: Sequence[Result], losses: Mapping[Path, Mapping]
) -> Iterator[EvaluatedModel]:
    """The evaluated models, in the order of the tables.

    losses: contents of the files of losses.
    """
    groups: dict[NamedModel, list[Result]] = {}
    for result in evaluations:
        groups.setdefault(result.subject, []).append(result)
    for subject, results in groups.items():
        counts = [outcomes(result.content) for result in results]
        files = {result.row.validation_loss for result in results} & losses.keys()
        changes = [losses[file].get("change_at_end") for file in files]
        changes = [change for change in changes if change is not None]
        lacking = left_out(result.content for result in results)
        yield EvaluatedModel(
            subject=subject,
            outcomes={name: sum(count[name] for count in counts) for name in OUTCOMES},
            loss=mean(losses[file]["loss"] for file in files) if files else inf,
            seeds=len({result.seed for result in results}),
            change=mean(changes) if changes else None,
            by_set=_by_set(results),
            left_out=sum(len(problems) for problems in lacking.values()),
        )


def _by_set(evaluations: Sequence[Result]) -> dict[str, tuple[int, int]]:
    """For each data set the number of answers that pass all tests, and the number of all."""
    counts: dict[str, tuple[int, int]] = {}
    for result in evaluations:
        passed, answers = counts.get(result.row.dataset, (0, 0))
        passed += result.content["passed"]["plus"]
        answers += len(result.content["problems"])
        counts[result.row.dataset] = passed, answers
    return counts


def known_sets(evaluations: Sequence[Result]) -> dict[str, int]:
    """The evaluated data sets by name, with the number of problems that a limit left out."""
    sets = {}
    for result in evaluations:
        known = result.content["dataset"]
        all_problems = known.get("problems_in_file", known["problems"])
        sets[result.row.dataset] = all_problems - known["problems"] - len(known.get("left_out", ()))
    return sets


class _Case:
    """The facts that the decision rests on: ranked models, comparisons with base and with sft.

    table: see `comparison_table`.
    candidates: in the order of the tables.
    sets: see `known_sets`.
    """

    def __init__(self, table, candidates: Sequence[EvaluatedModel], sets: Mapping[str, int]):
        is_asked = (table["tests"] == SCORES.tests) & (table["question"] == OF_MODELS)
        self.rows = table[is_asked]
        rows = overall_rows(self.rows)
        self.pairs = len(rows)
        self.problems = int(rows["problems"].max()) if len(rows) else 0
        self.sets = sets
        self.models = {model.label: model for model in candidates}
        self.live = set().union(*(model.solves for model in candidates))
        self.over_base = self._over(rows, BASE)
        self.over_plain = self._over(rows, PLAIN)
        is_compared = (self.over_base or self.over_plain).keys()
        ranked = sorted(candidates, key=lambda model: (-model.solved, model.loss))
        self.tuned = [
            model for model in ranked if model.kind not in UNTUNED and model.label in is_compared
        ]
        self.plain = [model for model in self.tuned if model.kind == PLAIN]
        self.rivals = [model for model in self.tuned if model.label in self.over_plain]
        merged = [model for model in ranked if model.kind == MERGED]
        self.merged = [model for model in merged if model.label in self.over_plain] or merged

    def _over(self, rows, kind: str) -> dict[str, tuple]:
        """The comparisons with a model of a kind, by the label of the other model."""
        return {
            row.second: row
            for row in rows.itertuples()
            if self.models[row.first].kind == kind and self.models[row.second].kind != kind
        }

    def verdict(self, decision: str, *rows: tuple, more: Sequence[str] = ()) -> Verdict:
        """The verdict. More problems would decide about the models of the last row.

        rows: the comparisons that the decision rests on.
        more: sentences about this case.
        """
        models = self.models.values()
        needed = 0.0
        others = [row for row in rows if row is not self.row_of_merged]
        reasons = [*self.of_merged(), *(comparison_sentence(row, self.pairs) for row in others)]
        reasons += more
        if unsolved := self.sets.keys() - self.live:
            reasons.append(
                f"All models solve 0 problems of {sets_text(sorted(unsolved))}. The figures "
                "over all data sets leave that out."
            )
        compared_alone = {row.dataset for row in rows} - {POOLED}
        if len(self.sets) > 1 and compared_alone:
            names = sets_text(sorted(compared_alone))
            reasons.append(f"Compared on {names} alone: elsewhere the problems or seeds differ.")
        if rows and not rows[-1].significant:
            needed, evidence = more_evidence(rows[-1], self.pairs)
            if evidence:
                reasons.append(evidence)
            if needed:
                reasons += _existing(self.sets)
        labels = [label for row in rows for label in (row.first, row.second)]
        reasons += _advice([self.models[label] for label in dict.fromkeys(labels)])
        if gone := max(model.left_out for model in models):
            reasons.append(f"Left out, as excluded or too long: {counted(gone, 'problem')}.")
        if all(model.seeds == 1 for model in models):
            reasons.append(ONE_SEED)
        pair = tuple(labels[-2:])
        datasets = self.counted_sets(*rows[-1:])
        shares = self.shares(pair, datasets)
        return Verdict(decision, tuple(reasons), pair, self.problems, needed, datasets, shares)

    def of_merged(self) -> Iterator[str]:
        """How XFT's merged model compares with plain fine-tuning, if both were evaluated.

        Users of XFT ask this first, so it follows the decision.
        """
        if not (self.merged and any(model.kind == PLAIN for model in self.models.values())):
            return
        several = f", the best of {len(self.merged)}" if len(self.merged) > 1 else ""
        name = f"{self.merged[0].label} (XFT's merged model{several})"
        row = self.row_of_merged
        if row is None:
            yield (
                f"{name} was not compared with {PLAIN}: no variant has both on the same problems "
                "with all seeds."
            )
            return
        figures = figures_text(SCORES, row, self.pairs)
        found = {SCORES: row}
        yield f"{name} against {row.first}: {figures}: {finding_text(found)}.{could_find(found)}"

    @property
    def row_of_merged(self) -> tuple | None:
        """The comparison of the best merged model with plain fine-tuning, if there is one."""
        return self.over_plain.get(self.merged[0].label) if self.merged else None

    def counted_sets(self, row: tuple | None = None) -> tuple[str, ...]:
        """The data sets that a comparison counts; None: those that figures over all count."""
        if row is None:
            return tuple(pooled_sets(self.sets, self.live))
        if row.dataset != POOLED:
            return (row.dataset,)
        is_pair = (self.rows["first"] == row.first) & (self.rows["second"] == row.second)
        compared = self.rows[is_pair]["dataset"].drop(row.Index)
        return tuple(pooled_sets(compared, self.live))

    def shares(self, pair: Sequence[str], datasets: Collection[str]) -> dict[str, float]:
        """The shares of base, or else of the first model, and of a pair. See `Verdict.shares`."""
        first = min(self.models, key=lambda label: self.models[label].kind != BASE)
        return {
            label: model.solved_of(datasets)
            for label, model in self.models.items()
            if label in (first, *pair) and model.by_set.keys() >= {*datasets}
        }


def decide(table, candidates: Sequence[EvaluatedModel], sets: Mapping[str, int]) -> Verdict | None:
    """The verdict; None if no tuned model was compared.

    table: see `comparison_table`.
    candidates: in the order of the tables.
    sets: see `known_sets`.
    """
    case = _Case(table, candidates, sets)
    solved = {model.solved for model in candidates}
    if case.pairs and solved in ({0.0}, {1.0}):
        return _nothing_measured(case, solved == {1.0})
    kinds = {model.kind for model in candidates}
    if case.pairs and BASE not in kinds:
        return case.verdict(
            "Not decided: base was not evaluated, so nothing says whether fine-tuning helps.",
            *(case.over_plain[model.label] for model in case.rivals[:1]),
            more=[f"Next: add {BASE} to evaluation.models."],
        )
    if not (case.over_base and case.tuned):
        return None
    if all(case.over_base[model.label].difference < 0 for model in case.tuned):
        return _all_below(case)
    most = max((model.solved for model in case.plain), default=1.0)
    for label in (model.label for model in case.rivals if model.solved >= most):
        if _is_above(case.over_base, label) and _is_above(case.over_plain, label):
            return _take_rival(case, label)
    for label in (model.label for model in case.plain):
        if _is_above(case.over_base, label):
            return _take_plain(case, label)
    return _undecided(case, case.tuned[0])


def _nothing_measured(case: _Case, is_all: bool) -> Verdict:
    number = f"all {case.problems:,}" if is_all else f"0 of {case.problems:,}"
    decision = (
        f"Nothing was measured: {_all_of(len(case.models), 'models')} solve {number} problems, "
        "so pass@1 says nothing here."
    )
    models = [*case.models.values()]
    reasons = [*_advice(models), *_more_steps(models)] or [
        f"The problems are too {'easy' if is_all else 'hard'} for these models: take other ones.",
        *_existing(case.sets),
    ]
    datasets = case.counted_sets()
    return Verdict(decision, tuple(reasons), datasets=datasets, shares=case.shares((), datasets))


def _all_below(case: _Case) -> Verdict:
    best, *others = case.tuned
    row = case.over_base[best.label]
    models = best.label
    worst = []
    if others:
        models = _all_of(len(case.tuned), "fine-tuned models")
        worst = [f"The worst: {comparison_sentence(case.over_base[others[-1].label], case.pairs)}"]
    decision = f"Do not fine-tune like this: base solves more problems than {models}."
    more = [*_more_steps([best])] or [_of_losses(case.models[row.first], best, row.significant)]
    return case.verdict(decision, row, more=[*worst, *more])


def _take_rival(case: _Case, label: str) -> Verdict:
    plain = case.over_plain[label]
    decision = (
        f"Take {label}: it solves significantly more problems than base and than plain fine-tuning "
        f"({plain.first})."
    )
    several = f"It is the best of {len(case.rivals)}, so the true difference is probably smaller."
    more = [several] if len(case.rivals) > 1 else []
    return case.verdict(decision, case.over_base[label], plain, more=more)


def _take_plain(case: _Case, label: str) -> Verdict:
    decision = (
        f"Take plain fine-tuning ({label}): it solves significantly more problems than base, and "
        "no model significantly more than it."
    )
    rivals = [case.over_plain[model.label] for model in case.rivals]
    rivals = [row for row in rivals if row.first == label]
    return case.verdict(decision, case.over_base[label], *rivals[:1])


def _undecided(case: _Case, best: EvaluatedModel) -> Verdict:
    row = case.over_base[best.label]
    plain = case.over_plain.get(best.label)
    if row.difference <= 0 or not row.significant:
        if row.difference > 0:
            decision = f"Not decided: {best.label} may be better than base."
        else:
            decision = "Not decided: no fine-tuned model solves more problems than base."
        return case.verdict(decision, row, more=[*_more_steps([best])])
    if plain is None:
        return case.verdict(
            f"Not decided: {best.label} solves significantly more problems than base, but plain "
            "fine-tuning (sft) was not evaluated.",
            row,
            more=[f"Next: add {PLAIN} to evaluation.models."],
        )
    decision = (
        f"Not decided between {best.label} and plain fine-tuning ({plain.first}): only "
        f"{best.label} solves significantly more problems than base."
    )
    return case.verdict(decision, row, plain)


def _all_of(number: int, noun: str) -> str:
    return f"both {noun}" if number == 2 else f"all {number} {noun}"


def _is_above(rows: Mapping[str, tuple], label: str) -> bool:
    row = rows.get(label)
    return row is not None and bool(row.significant) and row.difference > 0


def _existing(sets: Mapping[str, int]) -> Iterator[str]:
    """The problems that exist and were not evaluated, of the benchmarks that the run has."""
    left_out = [
        f"{counted(count, 'problem')} of {set_in_words(name)}"
        for name, count in sets.items()
        if count
    ]
    if left_out:
        yield f"Next: remove evaluation.limit: it leaves out {name_list(left_out)}."
    elif more := unused(sets):
        names = name_list([f"{known.name} ({known.problems} problems)" for known in more])
        yield f"Next: add {names} to evaluation.datasets. {HOURS_HINT}"


def _more_steps(models: Iterable[EvaluatedModel]) -> Iterator[str]:
    """Advice on the models whose training ended while its loss still fell."""
    names = [model.label for model in models if still_falls(model.change)]
    if names:
        named = name_list(names[:NAMED])
        yield f"The loss of {named} still fell at the end of training. Next: more steps."


def _of_losses(base: EvaluatedModel, model: EvaluatedModel, is_far: bool) -> str:
    """Advice on a model that solves fewer problems than base, and no longer learned, by its loss.

    is_far: significantly fewer.
    """
    losses = f"({LOSSES.number(model.loss)} against {LOSSES.number(base.loss)})"
    if inf in (base.loss, model.loss):
        return "Next: set data.validation_rows: the loss says whether the model learned the rows."
    if model.loss >= base.loss:
        return (
            f"The validation loss of {model.label} is not lower than that of base {losses}. Next: "
            "a lower learning rate, fewer epochs, or more rows."
        )
    learned = f"The validation loss of {model.label} is lower than that of base {losses}"
    if model.change is None:
        return f"{learned}. Next: set eval_steps: the curve says whether more steps would help."
    if not is_far:
        return f"{learned}: it learned the rows. Next: rows that are nearer to the problems."
    return (
        f"{learned}, and no longer fell at the end: it learned the rows, and forgot what the "
        "problems need. Next: rows that are nearer to the problems, fewer steps, or a lower "
        "learning rate."
    )


def _advice(candidates: Sequence[EvaluatedModel]) -> Iterator[str]:
    for model in candidates[:NAMED]:
        if words := advice(model.outcomes):
            yield f"{model.label}: {words}."
