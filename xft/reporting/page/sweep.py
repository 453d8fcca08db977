"""The section of the report about the values of swept keys: charts, tables and heat maps."""

from collections.abc import Iterator

from xft.reporting.comparisons import LOSSES, Quantity
from xft.reporting.page.charts import drawn, lines, name_axis, number_axis
from xft.reporting.page.folder import Folder
from xft.reporting.page.part import FAR, MOST, SHOWN, Part, span
from xft.reporting.swept import Figure, Grid, Table, find_tables

MOST_GRIDS = 2  # that are open
DIGIT, CELL = 8, 28  # pixels: of a letter in a heat map, at most, and of a row


def sweep_parts(front: str, run: Folder) -> Iterator[Part]:
    """A chart and a table for each key and quantity, and the heat maps.

    front: what stands in front of the names.
    """
    tables = find_tables(run.results.swept)
    keys = list(dict.fromkeys(table.lines[0].key for table in tables))
    for table in sorted(tables, key=lambda table: keys.index(table.lines[0].key)):
        yield Part(f"{front}{table.title}", **_chart(table))
        yield Part(f"{front}{table.title}, with intervals", table=table.rows)
    for number, grid in enumerate(run.results.grids):
        title = f"{front}{grid.title}"
        yield Part(title, is_folded=number >= MOST_GRIDS, **_grid(grid))


def _chart(table: Table) -> dict[str, object]:
    """The chart of the first methods over the values, with the models that depend on no key."""
    first = table.lines[0]
    shown = table.lines[: max(1, MOST - len(first.level))]
    texts = [row[first.name] for row in table.rows]
    has_numbers = all(line.has_numbers for line in shown)
    places: dict[str, float] = {}
    if has_numbers:
        for line in shown:
            for point in line.points:
                places[point.text] = point.setting.value
    else:
        places = {text: place for place, text in enumerate(texts)}
    points = []
    for line in shown:
        for point in line.points:
            points += _rows(line.quantity, line.method, places[point.text], point.figure)
    level = []
    notes = [table.note]
    for label, figure in first.level.items():
        rows = [
            *_rows(first.quantity, label, places[texts[0]], figure),
            *_rows(first.quantity, label, places[texts[-1]], figure),
        ]
        if first.quantity is LOSSES and span([*points, *rows]) > FAR * span(points):
            mean = first.quantity.number(figure.mean)
            notes.append(f"Not in the chart, because it is far away: {label} {mean}.")
        else:
            level += [row | {"level": True} for row in rows]
    named = {places[text]: text for text in texts if text in places}
    axis = number_axis(named, named) if has_numbers else name_axis(texts)
    titles = first.key, SHOWN[first.quantity][0]
    note = " ".join(filter(None, notes))
    keys = "line", "x", "value"
    return lines([*level, *points], keys, titles, note=note, **axis)


def _rows(quantity: Quantity, line: str, x: float, figure: Figure) -> Iterator[dict]:
    """A row for each seed of a model."""
    for seed, value in figure.by_seed.items():
        yield {
            "line": line,
            "x": x,
            "low": quantity.factor * figure.low,
            "high": quantity.factor * figure.high,
            "seed": "" if seed is None else str(seed),
            "value": quantity.factor * value,
        }


def _grid(grid: Grid) -> dict[str, object]:
    """A heat map. The key with fewer values is along x."""
    is_turned = len(grid.texts[0]) > len(grid.texts[1])
    x, y = (1, 0) if is_turned else (0, 1)
    rows = [
        {"x": texts[x], "y": texts[y], "value": grid.quantity.factor * figure.mean}
        | {"text": figure.text(grid.quantity), "best": texts == grid.best}
        for texts, figure in grid.figures.items()
    ]
    is_loss = grid.quantity is LOSSES
    widest = max(len(grid.quantity.number(figure.mean)) for figure in grid.figures.values())
    title, form = SHOWN[grid.quantity]
    return drawn(
        "grid",
        rows,
        title=title,
        format=form,
        x_title=grid.names[x],
        y_title=grid.names[y],
        xs=list(grid.texts[x]),
        ys=list(grid.texts[y]),
        height=CELL * len(grid.texts[y]),
        # The best values are dark.
        reverse=is_loss,
        dark="datum.part < 0.4" if is_loss else "datum.part > 0.6",
        wide=DIGIT * widest,
    )
