"""The report in a real browser: Chromium, without a window and without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_folders import write_results

from xft.tools import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: {', '.join(NAMES)}")
NARROW = 375  # pixels, as a phone


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(finished, tmp_path_factory) -> str:
    """The address of the report of a run of the workflow."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    report.main([str(finished.results), "--out", str(file)])
    return file.as_uri()


def wait_for(page: Page, charts: str = ".chart") -> None:
    """Wait until the charts with this selector are drawn."""
    drawn = "[...document.querySelectorAll('{}')].every((chart) => chart.querySelector('svg'))"
    page.wait_for_function(drawn.format(charts))


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", NARROW)])
def test_all_charts_are_drawn_without_errors_or_requests(
    browser, address, repository, scheme, width
):
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    errors, requests = [], []  # requests: of all files and addresses
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: said.type == "log" or errors.append(said.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    wait_for(page)
    assert (errors, requests) == ([], [address])
    charts = page.locator(".chart")
    assert charts.count() > 6
    for chart in charts.all():
        assert chart.locator(
            "svg .mark-symbol path, svg .mark-rect path, svg .mark-line path"
        ).count()
        drawn = chart.locator("svg").first.bounding_box()["width"]
        assert drawn == pytest.approx(chart.bounding_box()["width"], abs=1)
        assert "…" not in chart.text_content()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    picture = repository / "build" / "screenshots" / f"report-{scheme}-{width}.png"
    page.screenshot(path=picture, full_page=True)


@pytest.mark.parametrize("width", [1280, NARROW])
def test_a_sweep_is_readable(browser, tmp_path, width):
    """Of 42 models. Closed it is short. Open, its headings, labels and numbers can be read."""
    models = {f"dense/lam~{number / 100:g}": number % 15 + 5 for number in range(10, 50)}
    write_results(tmp_path, {"base": 2, "sft": 9} | models, families=["A", "B", "C", "D", "E"])
    report.main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    wait_for(page, ".chart:not(details *)")
    assert page.evaluate("document.documentElement.scrollHeight") < 10 * 900
    page.evaluate("document.querySelectorAll('details.part').forEach((part) => part.open = true)")
    wait_for(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    layout = Path(__file__).with_name("layout.js").read_text()
    assert page.evaluate(layout) == {"overlapping": [], "outside": []}


def test_a_table_is_sorted_by_mouse_and_by_keys(browser, address):
    page = browser.new_page()
    page.goto(address)
    table = page.locator("#differences table.sortable")
    heading = table.get_by_role("button", name="pass@1, %")

    def shares() -> list[float]:
        return [float(text) for text in table.locator("tbody td:nth-child(4)").all_inner_texts()]

    heading.click()
    assert shares() == sorted(shares())
    heading.press("Enter")
    assert shares() == sorted(shares(), reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
