"""States in sentences which differences the comparisons of models show."""

from workflow_scripts.reporting.comparisons import POOLED, about_all_tests, p_text
from workflow_scripts.reporting.statistics import CONFIDENCE, FEWEST_DISCORDANT, holm

FEW_PROBLEMS = 60  # with 60 problems, a test can show differences from ten points on


def conclusions(table) -> str:
    """One sentence for each pair of models, for all data sets together if there are several.

    table: from `comparison_table`, with at least one row. Base + extra tests count. A difference is
    shown if the McNemar test's p-value is below 5% after Holm's correction for all these pairs.
    """
    # The row for all data sets together is the last of its pair.
    widest = about_all_tests(table).drop_duplicates(["first", "second"], keep="last")
    rows = list(widest.itertuples(index=False))
    p_values = holm([row.p_value for row in rows])
    correction = f", with Holm's correction for {len(rows)} comparisons" if len(rows) > 1 else ""
    head = f"Differences at the {1 - CONFIDENCE:.0%} level{correction}:\n\n"
    lines = [_sentence(row, p_value) for row, p_value in zip(rows, p_values, strict=True)]
    few = sorted({row.problems for row in rows if row.problems < FEW_PROBLEMS})
    notes = [_few(count) for count in few if count >= FEWEST_DISCORDANT]
    return head + "".join(f"- {line}\n" for line in lines) + "".join(f"\n{n}\n" for n in notes)


def _sentence(row, p_value: float) -> str:
    from pandas import isna

    where = "all data sets" if row.dataset == POOLED else row.dataset
    where = f"on {where} ({row.problems} problems)"
    if p_value < 1 - CONFIDENCE:
        better, worse = (row.second, row.first)[:: 1 if row.difference > 0 else -1]
        points = f"{100 * abs(row.difference):.1f} points"
        return f"{better} solves {points} more than {worse} {where}: shown (p {p_text(p_value)})."
    unseen = (
        "There are too few problems to show any difference."
        if isna(row.detectable)
        else f"Differences below about {100 * row.detectable:.0f} points would often be missed."
    )
    return f"{row.second} against {row.first} {where}: no difference is shown. {unseen}"


def _few(count: int) -> str:
    return (
        f"With {count} problems, a difference can only be shown if one model solves at least "
        f"{FEWEST_DISCORDANT} problems that the other does not solve."
    )
