"""The charts of the report: Vega-Lite specifications in `vega/`, filled with rows."""

import json
from collections.abc import Iterable
from importlib import resources
from string import Template

from xft.common.numbers import finite

ROW = 20  # pixels
LOOK = {
    "background": "transparent",
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "axisY": {"labelLimit": 600},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 900, "symbolLimit": 120}
    | {"orient": "bottom", "columns": 1, "symbolStrokeWidth": 3, "symbolOpacity": 1},
}


def chart(name: str, rows: Iterable[dict], **words: str) -> dict:
    """The specification in `vega/<name>.json` with its rows, as wide as the page.

    Without a height there, each value of the y-axis has a row. words: for the names with $ in it.
    NaN and infinity become gaps: JSON has none, and a browser would draw no chart at all.
    """
    text = resources.files(__package__).joinpath("vega", f"{name}.json").read_text()
    values = [
        {key: finite(value) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    spec = json.loads(Template(text).substitute(words))
    row = spec["encoding"]["y"]["field"]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": LOOK,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "width": "container",
        "height": ROW * len({value[row] for value in values}),
        "data": {"values": values},
    } | spec
