"""Writes the main charts of the report as files, which Snakemake's own report shows."""

import re
from collections.abc import Sequence
from pathlib import Path

from xft.reporting.page.folder import Results
from xft.reporting.page.sections import find_parts

SECTIONS = ("scores", "differences", "training")
LONGEST_NAME = 100
WIDTH = 520  # pixels
# The left side has room for fonts that are wider than the one that the chart was measured with.
PADDING = {"left": 48, "right": 14, "top": 14, "bottom": 14}


def write_figures(runs: Sequence[Results], folder: Path) -> None:
    """Write `<section>/<number>-<title>.svg` for each chart of the sections that have figures."""
    parts = find_parts(runs)
    for section in SECTIONS:
        drawn = [part for part in parts[section] if part.chart]
        for number, part in enumerate(drawn, start=1):
            title = re.sub(r"\W+", "-", part.title).strip("-")[:LONGEST_NAME]
            file = folder / section / f"{number}-{title}.svg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_svg(part.chart, part.title), encoding="utf-8")


def _svg(chart: dict, title: str) -> str:
    import vl_convert

    shown = {"title": title, "background": "white", "padding": PADDING}
    return vl_convert.vegalite_to_svg(chart | shown | {"width": WIDTH, "autosize": "pad"})
