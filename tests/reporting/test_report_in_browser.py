"""The report in a real browser: Chromium, without a window and without a network."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_folders import write_results

from xft.tools import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: {', '.join(NAMES)}")
NARROW = 375  # pixels, as a phone


@dataclass
class Opened:
    """A report that a browser has opened. requests: of all files and addresses."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(finished, tmp_path_factory) -> dict:
    """The files of two reports: of a run of the workflow, and of hostile solutions."""
    folder = tmp_path_factory.mktemp("reports")
    write_results(folder / "hostile", {"base": 3, "dense/lam~0.75": 9})
    results = {"finished": finished.results, "hostile": folder / "hostile"}
    files = {name: folder / f"{name}.html" for name in results}
    for name, place in results.items():
        report.main([str(place), "--out", str(files[name])])
    return files


@pytest.fixture
def open_report(browser, reports):
    """Callable (name, options of the browser's context): the report, when its charts are drawn."""
    contexts = []

    def open_one(name: str, **options) -> Opened:
        contexts.append(browser.new_context(**options))
        opened = Opened(contexts[-1].new_page())
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on(
            "console",
            lambda said: opened.errors.append(said.text) if said.type != "log" else None,
        )
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(reports[name].as_uri())
        opened.page.wait_for_function(
            "[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg'))"
        )
        return opened

    yield open_one
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", NARROW)])
def test_all_charts_are_drawn_without_errors_or_requests(
    open_report, reports, repository, scheme, width
):
    size = {"width": width, "height": 900}
    opened = open_report("finished", color_scheme=scheme, viewport=size)
    assert opened.errors == []
    assert opened.requests == [reports["finished"].as_uri()]
    charts = opened.page.locator(".chart")
    assert charts.count() > 6
    for chart in charts.all():
        assert chart.locator(
            "svg .mark-symbol path, svg .mark-rect path, svg .mark-line path"
        ).count()
        drawn = chart.locator("svg").first.bounding_box()["width"]
        assert drawn == pytest.approx(chart.bounding_box()["width"], abs=1)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    picture = repository / "build" / "screenshots" / f"report-{scheme}-{width}.png"
    opened.page.screenshot(path=picture, full_page=True)


def test_no_solution_runs(open_report):
    opened = open_report("hostile")
    for unfolded in opened.page.locator("details").all():
        unfolded.evaluate("(element) => { element.open = true; }")
    assert opened.errors == [] and len(opened.requests) == 1
    assert opened.page.title().startswith("XFT: ")
    assert opened.page.locator("main script, main img, main svg[onload]").count() == 0


def test_a_table_is_sorted_by_mouse_and_by_keys(open_report):
    page = open_report("finished").page
    table = page.locator("table.sortable").first
    heading = table.get_by_role("button", name="pass@1, %")

    def shares() -> list[float]:
        return [float(text) for text in table.locator("tbody td:nth-child(4)").all_inner_texts()]

    heading.click()
    assert shares() == sorted(shares())
    heading.press("Enter")
    assert shares() == sorted(shares(), reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
