"""Writes the main charts of the report as files, which Snakemake's own report shows."""

import re
from collections.abc import Sequence
from pathlib import Path

from xft.reporting.page.folder import Results
from xft.reporting.page.sections import find_parts

SECTIONS = ("scores", "cost", "differences", "training")
LONGEST_NAME = 100
# The sides have room for fonts that are wider than the one that the chart was measured with.
PADDING = {"left": 48, "right": 48, "top": 14, "bottom": 14}
LOOK = {"background": "white", "padding": PADDING, "width": 520, "autosize": "pad"}  # in pixels


def write_figures(runs: Sequence[Results], folder: Path) -> None:
    """Write `<section>/<number>-<title>.svg` for each chart of the sections that have figures."""
    import vl_convert

    parts = find_parts(runs)
    for section in SECTIONS:
        drawn = [part for part in parts[section] if part.chart]
        for number, part in enumerate(drawn, start=1):
            title = re.sub(r"\W+", "-", part.title).strip("-")[:LONGEST_NAME]
            file = folder / section / f"{number}-{title}.svg"
            file.parent.mkdir(parents=True, exist_ok=True)
            drawing = vl_convert.vegalite_to_svg(part.chart | {"title": part.title} | LOOK)
            file.write_text(drawing, encoding="utf-8")
