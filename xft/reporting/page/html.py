"""Builds the report's page. Its scripts are inside, and no other script can run in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources

from markupsafe import Markup, escape

from xft.config.sections import MODELS
from xft.evaluation.result import OUTCOMES, TEST_NAMES
from xft.reporting.page.folder import Results
from xft.reporting.page.sections import MOST, find_parts, in_words
from xft.reporting.sentences import label_family
from xft.reporting.templates import templates

GENERATOR = "xft report"
LONG = re.compile(r"\S{15,}")
NUMBER = re.compile(r"([-+]?\d[\d,]*(\.\d+)?)?")


def build_page(runs: Sequence[Results]) -> str:
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
        over_seeds=lambda name: in_words(re.sub(r"seed~\d+/?", "", name)),
        meanings=_meanings(runs),
        outcomes=OUTCOMES,
        with_code=_with_code,
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _breakable(text: object) -> Markup:
    """A text as HTML. A long word may break behind / and _, and a number such as 1e-05 may not."""
    parts = LONG.sub(lambda word: re.sub("[/_]", r"\g<0><wbr>", word[0]), str(escape(text)))
    return Markup(re.sub(r"[\d.]+e-\d+", r'<span class="whole">\g<0></span>', parts))


def _meanings(runs: Iterable[Results]) -> dict[str, str]:
    """What the names of the evaluated models mean."""
    names = {label_family(model.label) for run in runs for model in run.candidates}
    return {name: meaning for name, meaning in MODELS.items() if name in names}


def _with_code(text: str) -> Markup:
    """A text as HTML. What stands between two ` is code."""
    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(_breakable(text))))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """A Content-Security-Policy under which these scripts run and nothing else, without network."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts)
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src {allowed}"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
