"""States in sentences which differences the comparisons of models show."""

from collections.abc import Sequence

from xft.reporting.comparisons import (
    OVER_SEEDS,
    POOLED,
    SEEDS,
    about_all_tests,
    about_losses,
    about_one_result,
    about_seeds,
    legend,
    loss_legend,
    p_text,
    readable_comparisons,
    readable_losses,
    readable_over_seeds,
    widest,
)
from xft.reporting.statistics import CONFIDENCE, FEWEST_DISCORDANT, holm
from xft.reporting.tables import to_markdown

FEW_PROBLEMS = 60  # with 60 problems, a test can show differences from ten points on


def comparisons_text(table, results: Sequence[dict], brief: bool = False) -> list[str]:
    """The tables of comparisons, each with its explanation, and the sentences.

    table: from `with_losses`. brief: see `conclusions`.
    """
    parts = []
    if len(about_one_result(table)):
        parts += [to_markdown(readable_comparisons(table)), legend(results)]
    if len(about_seeds(table)):
        parts += [to_markdown(readable_over_seeds(table)), OVER_SEEDS]
    if parts:
        parts.append(conclusions(table, brief))
    if len(about_losses(table)):
        parts += [to_markdown(readable_losses(table)), loss_legend(table)]
    return parts


def conclusions(table, brief: bool = False) -> str:
    """One sentence for each pair of models, for all data sets together if there are several.

    table: from `comparison_table`, with at least one pair. Base + extra tests count. A difference
    is shown if the p-value of its row is below 5% after Holm's correction for all these pairs.
    brief: pairs without a shown difference are only counted.
    """
    rows = list(widest(about_all_tests(table)).itertuples(index=False))
    p_values = holm([row.p_value for row in rows])
    correction = f", with Holm's correction for {len(rows)} comparisons" if len(rows) > 1 else ""
    head = f"Differences at the {1 - CONFIDENCE:.0%} level{correction}:\n\n"
    is_shown = [p_value < 1 - CONFIDENCE for p_value in p_values]
    lines = [
        _shown(row, p_value) if shown else _not_shown(row)
        for row, p_value, shown in zip(rows, p_values, is_shown, strict=True)
        if shown or not brief
    ]
    if brief and not all(is_shown):
        lines.append(_others(is_shown.count(False), len(rows)))
    few = sorted({row.problems for row in rows if row.problems < FEW_PROBLEMS})
    notes = [_few(count) for count in few if count >= FEWEST_DISCORDANT]
    return head + "".join(f"- {line}\n" for line in lines) + "".join(f"\n{n}\n" for n in notes)


def _shown(row, p_value: float) -> str:
    better, worse = (row.second, row.first)[:: 1 if row.difference > 0 else -1]
    points = f"{100 * abs(row.difference):.1f} points"
    return f"{better} solves {points} more than {worse} {_where(row)}: shown (p {p_text(p_value)})."


def _not_shown(row) -> str:
    from pandas import isna

    unseen = (
        "There are too few problems to show any difference."
        if isna(row.detectable)
        else f"Differences below about {100 * row.detectable:.0f} points would often be missed."
    )
    return f"{row.second} against {row.first} {_where(row)}: no difference is shown. {unseen}"


def _where(row) -> str:
    where = "all data sets" if row.dataset == POOLED else row.dataset
    seeds = max(getattr(row, name, 1) for name in SEEDS)
    return f"on {where} ({row.problems} problems{f', {seeds} seeds' if seeds > 1 else ''})"


def _others(count: int, pairs: int) -> str:
    others = "the other pair" if count == 1 < pairs else f"the other {count} pairs"
    if count == pairs:
        others = "any pair" if pairs > 1 else "the pair"
    return f"No difference is shown for {others}."


def _few(count: int) -> str:
    return (
        f"With {count} problems, a difference can only be shown if one model solves at least "
        f"{FEWEST_DISCORDANT} problems that the other does not solve."
    )
