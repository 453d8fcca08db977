"""The charts of the report: Vega-Lite specifications in `vega/`, filled with rows.

`vega/look.json` is common to all of them.
"""

import json
from collections.abc import Iterable
from importlib import resources
from string import Template

from xft.common.numbers import finite

ROW = 20  # pixels


def chart(name: str, rows: Iterable[dict], **words: str) -> dict:
    """The specification in `vega/<name>.json` with its rows, as wide as the page.

    Without a height there, each value of the y-axis has a row. words: for the names with $ in it.
    NaN and infinity become gaps: JSON has none, and a browser would draw no chart at all.
    """
    values = [
        {key: finite(value) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    spec = json.loads(Template(_file(name)).substitute(words))
    row = spec["encoding"]["y"]["field"]
    height = ROW * len({value[row] for value in values})
    return json.loads(_file("look")) | {"height": height, "data": {"values": values}} | spec


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("vega", f"{name}.json").read_text()
