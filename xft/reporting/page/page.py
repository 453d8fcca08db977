"""Builds the page as HTML, and the main charts as pictures, which Snakemake's own report shows.

The page's scripts are inside, and no other script can run in it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from markupsafe import Markup, escape

from xft.common.errors import counted
from xft.common.jinja import templates
from xft.config.sections import MODELS
from xft.evaluation.result import TEST_NAMES
from xft.evaluation.scoring import OUTCOMES
from xft.reporting.names import path_text, sets_text
from xft.reporting.page.folder import Folder
from xft.reporting.page.part import MOST
from xft.reporting.page.parts import find_parts

GENERATOR = "xft report"
LONG = re.compile(r"\S{12,}")
NUMBER = re.compile(r"([-+]?\d[\d,]*(\.\d+)?)?")
FIGURES = ("sweep", "scores", "cost", "differences", "training")  # sections
LONGEST_NAME = 100
# The sides have room for fonts that are wider than the one that the chart was measured with.
PADDING = {"left": 48, "right": 48, "top": 14, "bottom": 14}
LOOK = {"background": "white", "padding": PADDING, "width": 520, "autosize": "pad"}  # in pixels


def build_page(runs: Sequence[Folder]) -> str:
    """The HTML page of one or more results folders."""
    import vl_convert

    parts = find_parts(runs)
    drawn = [part.chart for section in parts.values() for part in section if part.chart]
    scripts = {"vega": vl_convert.javascript_bundle(), "script": _file("report.js")}
    scripts = {name: text.replace("</script", "<\\/script") for name, text in scripts.items()}
    template = templates(__package__, is_html=True).get_template("report.html.jinja")
    return template.render(
        generator=GENERATOR,
        policy=_policy(scripts.values()),
        style=Markup(_file("report.css")),
        charts=Markup(json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")),
        parts=parts,
        test_names=TEST_NAMES,
        most=MOST,
        runs=runs,
        dumps=json.dumps,
        is_numeric=lambda cells: all(NUMBER.fullmatch(str(cell)) for cell in cells),
        breakable=_breakable,
        path_text=path_text,
        over_seeds=lambda name: path_text(re.sub(r"seed~\d+/?", "", name)),
        meanings=_meanings(runs),
        sets_text=sets_text,
        counted=counted,
        outcomes=OUTCOMES,
        # What stands between two ` is code.
        with_code=lambda text: Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(_breakable(text)))),
        **{name: Markup(text) for name, text in scripts.items()},
    )


def write_figures(runs: Sequence[Folder], folder: Path) -> None:
    """Write `<section>/<number>-<title>.svg` for each chart of the sections that have figures."""
    import vl_convert

    parts = find_parts(runs)
    for section in FIGURES:
        drawn = [part for part in parts[section] if part.chart]
        for number, part in enumerate(drawn, start=1):
            title = re.sub(r"\W+", "-", part.title).strip("-")[:LONGEST_NAME]
            file = folder / section / f"{number}-{title}.svg"
            file.parent.mkdir(parents=True, exist_ok=True)
            drawing = vl_convert.vegalite_to_svg(part.chart | {"title": part.title} | LOOK)
            file.write_text(drawing, encoding="utf-8")


def _breakable(text: object) -> Markup:
    """A text as HTML. A long word may break behind / and _, and a number such as 1e-05 may not."""
    parts = LONG.sub(lambda word: re.sub("[/_]", r"\g<0><wbr>", word[0]), str(escape(text)))
    return Markup(re.sub(r"[\d.]+e-\d+", r'<span class="whole">\g<0></span>', parts))


def _meanings(runs: Iterable[Folder]) -> dict[str, str]:
    """The meanings of the evaluated kinds of models, by name."""
    kinds = {model.kind for run in runs for model in run.results.candidates}
    return {kind: meaning for kind, meaning in MODELS.items() if kind in kinds}


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """A Content-Security-Policy under which these scripts run and nothing else, without network."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts)
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src {allowed}"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
