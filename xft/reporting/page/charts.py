"""The charts of the report, as Vega-Lite specifications."""

import math
from collections.abc import Iterable, Sequence

MOST_SYMBOLS = 120  # in a legend
ROW = 20  # pixels
WIDTH = 520


def scores_chart(scores: Sequence[dict]) -> dict:
    """pass@1 of each model with its 95% interval; a point for each seed and a line at the mean."""
    alt, data = _altair(), _data(scores)
    y = alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    base = alt.Chart(data, width=WIDTH, height=alt.Step(ROW)).encode(y=y)
    tips = [
        alt.Tooltip("label:N", title="model"),
        "seed:N",
        alt.Tooltip("share:Q", title="pass@1, %", format=".1f"),
        alt.Tooltip("low:Q", format=".1f"),
        alt.Tooltip("high:Q", format=".1f"),
    ]
    x = alt.X("share:Q", title="problems solved, %", scale=alt.Scale(zero=False))
    interval = base.mark_rule(opacity=0.6).encode(
        x=alt.X("low:Q", title="problems solved, %", scale=alt.Scale(zero=False)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=55).encode(x=x, tooltip=tips)
    mean = base.mark_tick(thickness=3, size=ROW * 0.7, color="#e4572e").encode(
        x=alt.X("mean(share):Q", title="problems solved, %")
    )
    has_seeds = len({row["label"] for row in scores}) < len(scores)
    return _spec(interval + points + mean if has_seeds else interval + points)


def lambda_chart(scores: Sequence[dict]) -> dict:
    """pass@1 of merges over lambda: points with intervals, and a line through the seeds' means."""
    alt = _altair()
    base = alt.Chart(_data(scores), width=WIDTH, height=220).encode(
        x=alt.X("lam:Q", title="lambda", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("merge:N", legend=alt.Legend(labelLimit=260, columns=1)),
    )
    y = alt.Y("low:Q", title="problems solved, %", scale=alt.Scale(zero=False))
    tips = ["merge:N", "lam:Q", "seed:N", alt.Tooltip("share:Q", format=".1f")]
    intervals = base.mark_rule(opacity=0.4).encode(y=y, y2="high:Q")
    points = base.mark_point(filled=True, size=45).encode(y="share:Q", tooltip=tips)
    return _spec(intervals + points + base.mark_line().encode(y="mean(share):Q"))


def differences_chart(comparisons: Sequence[dict], title: str) -> dict:
    """The differences of pairs of models with their 95% intervals, and a line at zero.

    comparisons: with pair, difference, low, high and p_value. title: of the axis, with the unit.
    """
    alt, data = _altair(), _data(comparisons)
    y = alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelLimit=380))
    excludes_zero = (alt.datum.low > 0) | (alt.datum.high < 0)
    color = alt.condition(excludes_zero, alt.value("#e4572e"), alt.value("#7f8c9b"))
    base = alt.Chart(data, width=WIDTH, height=alt.Step(ROW)).encode(y=y, color=color)
    tips = [
        "pair:N",
        *(
            alt.Tooltip(f"{key}:Q", format=".4f")
            for key in ("difference", "low", "high", "p_value")
        ),
    ]
    interval = base.mark_rule().encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = base.mark_point(filled=True, size=55).encode(x="difference:Q", tooltip=tips)
    zero = alt.Chart(_data([{"zero": 0}])).mark_rule(strokeDash=[4, 4]).encode(x="zero:Q")
    return _spec(zero + interval + points)


def curves_chart(curves: Sequence[dict], key: str, title: str, raw: str | None = None) -> dict:
    """A value over the steps of all trainings. A click on the legend shows one training alone.

    key: of the value. raw: the key of values that are drawn faintly behind it.
    """
    alt, data = _altair(), _data(curves)
    chosen = alt.selection_point(fields=["training"], bind="legend")
    legend = alt.Legend(labelLimit=260, columns=1, symbolLimit=MOST_SYMBOLS)
    base = alt.Chart(data, width=WIDTH, height=260).encode(
        x=alt.X("step:Q", title="optimiser step"),
        color=alt.Color("training:N", legend=legend),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.08)),
    )
    y = alt.Y(f"{key}:Q", title=title, scale=alt.Scale(zero=False))
    tips = ["training:N", "step:Q", alt.Tooltip(f"{key}:Q", format=".4g")]
    lines = base.mark_line().encode(y=y, tooltip=tips).add_params(chosen)
    if raw is None:
        return _spec(lines)
    faint = (
        alt.Chart(data)
        .mark_line(strokeWidth=0.5, opacity=0.3)
        .encode(x="step:Q", y=alt.Y(f"{raw}:Q", title=title), color="training:N")
    )
    return _spec(faint + lines)


def map_chart(cells: Sequence[dict], row: str, value: str, middle: float) -> dict:
    """A heat map with a column for each expert. Colours: how far a value is from the middle."""
    alt = _altair()
    scale = alt.Scale(scheme="blueorange", domainMid=middle, reverse=False)
    chart = alt.Chart(_data(cells), width=alt.Step(26), height=alt.Step(ROW)).mark_rect()
    return _spec(
        chart.encode(
            x=alt.X("expert:O", axis=alt.Axis(labelAngle=0)),
            y=alt.Y(f"{row}:O"),
            color=alt.Color(f"{value}:Q", scale=scale),
            tooltip=[f"{row}:O", "expert:O", alt.Tooltip(f"{value}:Q", format=".4f")],
        )
    )


def spread_chart(spreads: Sequence[dict]) -> dict:
    """How far the experts of each mixture lie apart, for each layer."""
    alt = _altair()
    chart = alt.Chart(_data(spreads), width=WIDTH, height=200).mark_line(point=True)
    return _spec(
        chart.encode(
            x=alt.X("layer:O", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("spread:Q", title="spread, % of what the tuning changed"),
            color=alt.Color("mixture:N", legend=alt.Legend(labelLimit=260, columns=1)),
            tooltip=["mixture:N", "layer:O", alt.Tooltip("spread:Q", format=".1f")],
        )
    )


def _altair():
    import altair

    return altair


def _data(rows: Iterable[dict]):
    """Rows inside of the specification. They need no file beside the report.

    NaN and infinity are gaps: JSON has none, and a browser would draw no chart at all.
    """
    return _altair().Data(values=[{key: _finite(row[key]) for key in row} for row in rows])


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _spec(chart) -> dict:
    return (
        chart.configure(background="transparent")
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .to_dict()
    )
