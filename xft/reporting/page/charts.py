"""The charts of the report: Vega-Lite specifications in `vega/`, filled with rows.

`vega/look.json` is common to all of them.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from statistics import median
from string import Template

ROW, SEED = 20, 9  # pixels: of a model, and of a seed of it
HEIGHT, TEXT_HEIGHT = 260, 14  # pixels: of a chart of lines, and of a line of text in it
MOST_TICKS = 8
MOST_RAW = 3  # lines with their raw values
# The lines of a long name: of 22 letters. A word that is longer ends behind / or _ if possible.
OF_SEED = re.compile(r", seed \d+")  # in a name
WHOLE = {"expr": "clamp(floor(span(domain('x'))), 1, 5)"}  # the number of ticks at most
LINEAR = '"type": "linear", "zero": false'  # a scale
# The text of a tick, as JSON.
NUMBERS = json.dumps("format(datum.value, abs(datum.value) < 0.001 && datum.value ? '~e' : '~g')")
TEXT = re.compile(r"\S.{0,21}(?=\s|$)|\S.{0,20}[/_]|\S.{0,21}")


def drawn(name: str, rows: Sequence[dict], note: str = "", **words: object) -> dict[str, object]:
    """The note and the chart of a part, as wide as the page. One place of it is a sentence instead.

    name: of the specification in `vega/`. Without a height there, each value of the y-axis has a
    row. words: for the names with $ in it. NaN and infinity become gaps: JSON has none, and a
    browser would draw no chart at all.
    """
    texts = {}
    for key, value in words.items():
        texts[key] = value if isinstance(value, str) else json.dumps(value)
    spec = json.loads(Template(_file(name)).substitute(texts))
    meta = spec["usermeta"]
    places = {tuple(row[key] for key in meta["along"]) for row in rows}
    if len(places) == 1:
        values = "; ".join(meta["words"].format(**row) for row in rows)
        return {"note": f"{meta['title']}: {values}. {note}"}
    values = [{key: _number_or_gap(value) for key, value in row.items()} for row in rows]
    y_axis = spec["encoding"]["y"]["field"]
    y_values = {row.get(y_axis) for row in values}
    height = max(ROW * len(y_values), SEED * len(places))
    look = json.loads(_file("look")) | {"height": height, "data": {"values": values}}
    return {"note": note, "chart": look | spec}


def lines(
    rows: Sequence[dict], keys: Sequence[str], titles: Sequence[str], raw: str = "", **more
) -> dict[str, object]:
    """As `drawn`: lines with their names at their ends, and with the intervals in the rows, if any.

    keys: of the line, x and y in the rows. Rows with the same line and x are seeds.
    titles: of the axes.
    raw: the key of values to draw as thin lines, if the lines are few.
    more: a note, and for x the ticks, their labels and what the scale has, see `number_axis`. By
        default, ticks are whole numbers.
    """
    line, x, y = keys
    texts = []
    for place, name in enumerate(dict.fromkeys(row[line] for row in rows)):
        texts.append({"line": name, "text": TEXT.findall(name), "place": place})
    by_default = {
        "ticks": None,
        "scale": LINEAR,
        "labels": NUMBERS,
        "count": WHOLE,
    }
    words = {
        "line": line,
        "x": x,
        "y": y,
        "x_title": titles[0],
        "y_title": titles[1],
        "low": "low" if "low" in rows[0] else y,
        "high": "high" if "high" in rows[0] else y,
        "shape": _shape(rows),
        "raw": raw if raw and len(texts) <= MOST_RAW else "mean",
        "texts": texts,
        "height": max(HEIGHT, TEXT_HEIGHT * sum(len(text["text"]) for text in texts)),
    }
    return drawn("lines", rows, **words, **(by_default | more))


def number_axis(values: Iterable[float], texts: Mapping[float, str] | None = None) -> dict:
    """The scale, ticks and labels of an axis of numbers, for `lines`.

    The scale is logarithmic if the median is nearer to the geometric mean of the ends.

    texts: of the values.
    """
    values = sorted(set(values))
    low, middle, high = values[0], median(values), values[-1]
    is_log = low > 0 and abs(middle - (low * high) ** 0.5) < abs(middle - (low + high) / 2)
    ticks = values[:: math.ceil(len(values) / MOST_TICKS)]
    axis = {"scale": '"type": "log"' if is_log else LINEAR, "ticks": ticks, "count": len(ticks)}
    if texts:
        axis["labels"] = _labels(texts)
    return axis


def name_axis(texts: Sequence[str]) -> dict:
    """The scale, ticks and labels of an axis of names, for `lines`, whose x are their numbers."""
    places = range(len(texts))
    labels = _labels(dict(zip(places, texts, strict=True)))
    return {"scale": LINEAR, "ticks": [*places], "count": len(texts), "labels": labels}


def _labels(texts: Mapping[float, str]) -> str:
    """The expression of the text of a tick, as JSON."""
    places = json.dumps([*texts.keys()])
    names = json.dumps([*texts.values()])
    return json.dumps(f"{names}[indexof({places}, datum.value)]")


def paint(charts: Iterable[dict]) -> None:
    """Give a model one colour in all charts, if no other model of a chart has it. Seeds share it.

    The colours of a chart are in the order in which its names come in the rows.
    """
    known: dict[str, str] = {}
    for chart in charts:
        key = chart["usermeta"].get("colour")
        if not key:
            continue
        palette = chart["config"]["range"]["category"]
        rows = chart["data"]["values"]
        names = [OF_SEED.sub("", name) for name in dict.fromkeys(row[key] for row in rows)]
        taken: dict[str, str] = {}
        for name in dict.fromkeys(names):
            first = known.setdefault(name, palette[len(known) % len(palette)])
            free = [colour for colour in (first, *palette) if colour not in taken.values()]
            taken[name] = free[0] if free else first
        chart["config"]["range"]["category"] = [taken[name] for name in names]


def _shape(rows: Iterable[Mapping]) -> dict[str, object]:
    """The encoding of the marks of seeds: each has its own if there are several."""
    seeds = sorted({row.get("seed") or "" for row in rows} - {""})
    if len(seeds) < 2:
        return {"value": "circle"}
    return {"field": "seed", "type": "nominal", "title": "seed", "scale": {"domain": seeds}}


def _number_or_gap(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("vega", f"{name}.json").read_text()
