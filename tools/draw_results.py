"""Draw README's figure, docs/images/results.svg, from a results folder.

    make run
    python -m tools.draw_results results

The charts are those of the report.
"""

import sys
from pathlib import Path

import vl_convert

from xft.common.errors import UserError
from xft.reporting.page import charts
from xft.reporting.page.folder import Results, read_results

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "results.svg"
# The picture brings its own background, since a page may be white or dark. On the left is room for
# a reader's font that is wider than the one that vl_convert measures.
LOOK = {
    "background": "#f6f8fa",
    "padding": {"left": 48, "right": 14, "top": 14, "bottom": 14},
    "title": {"anchor": "start", "frame": "group"},
}


def figure(results: Results) -> str:
    """The SVG: pass@1 of all models, and how far the held-out losses of tuned models differ.

    Raises UserError if the run is not finished.
    """
    if not results.scores:
        raise UserError(f"{results.folder}: {', '.join(results.missing)}. Run `make run` first")
    upper = charts.chart("scores", [row for row in results.scores if row["tests"] == "plus"])
    pairs = [
        row | {"pair": f"{row['second']} against {row['first']}"}
        for row in results.comparisons
        if row["tests"] == "loss" and row["first"] != "base"
    ]
    lower = charts.chart("differences", pairs, unit="nats a token")
    config = upper.pop("config") | lower.pop("config") | LOOK
    problems = results.scores[0]["problems"]
    views = [
        charts.alone(upper) | {"title": f"pass@1 on {problems} problems, base + extra tests"},
        charts.alone(lower)
        | {"title": "Loss on held-out rows, tuned models; below 0: the first one is better"},
    ]
    return vl_convert.vegalite_to_svg({"vconcat": views, "config": config})


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("name the results folder: python -m tools.draw_results results")
    try:
        drawn = figure(read_results(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(f"draw_results: error: {error}")
    FIGURE.write_text(drawn + "\n")


if __name__ == "__main__":
    main()
