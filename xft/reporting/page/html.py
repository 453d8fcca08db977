"""Builds the report's page. Its scripts are inside, and no other script can run in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources

from xft.evaluation.result import TEST_NAMES
from xft.reporting.page.folder import Results
from xft.reporting.page.sections import MOST, find_parts
from xft.reporting.templates import templates
from xft.reporting.verdict import problems_needed

GENERATOR = "xft report"
NUMBER = re.compile(r"([-+]?\d[\d,]*(\.\d+)?)?")


def build_page(runs: Sequence[Results]) -> str:
    """The HTML page of one or more results folders."""
    import vl_convert
    from markupsafe import Markup

    parts = find_parts(runs)
    drawn = [part.chart for found in parts.values() for part in found if part.chart]
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
        needed=problems_needed,
        **{name: Markup(text) for name, text in scripts.items()},
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """A Content-Security-Policy under which these scripts run and nothing else, without network."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts)
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src {allowed}"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
