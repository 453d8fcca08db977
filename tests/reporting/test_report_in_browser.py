"""The report in a real browser: Chromium, without a window and without a network."""

import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report_folders import Runs, write_results, write_solutions

from xft.common.file_access import write_whole
from xft.tools import joint_report as report

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: {', '.join(NAMES)}")
NARROW = 375  # pixels, as a phone
SWEPT = "moe_sft.learning_rate", "moe.num_experts"


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


def wait_for_charts(page: Page) -> None:
    """Wait until all charts are drawn that are not in a closed part."""
    expect(page.locator(".chart:not(details:not([open]) *):not(:has(svg))")).to_have_count(0)


def run_script(page: Page, name: str, *values: object):
    return page.evaluate(Path(__file__).with_name(f"{name}.js").read_text(), *values)


def open_all(page: Page) -> None:
    """Open all parts and check that they can be read."""
    page.evaluate("document.querySelectorAll('details.part').forEach((part) => part.open = true)")
    wait_for_charts(page)
    assert run_script(page, "layout") == {}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", NARROW)])
def test_all_charts_are_drawn(browser, address, repository, scheme, width):
    """Without errors or requests."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    errors, requests = [], []  # requests: of all files and addresses
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: said.type == "log" or errors.append(said.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    wait_for_charts(page)
    assert page.locator("details:not([open]):has(.chart)", has_text="Learning rate").count() == 2
    open_all(page)
    assert (errors, requests) == ([], [address])
    charts = page.locator(".chart")
    marks = "svg .mark-symbol path, svg .mark-rect path, svg .mark-line path"
    assert charts.count() > 6
    for chart in charts.all():
        assert chart.locator(marks).count()
        drawn = chart.locator("svg").first.bounding_box()["width"]
        assert drawn == pytest.approx(chart.bounding_box()["width"], abs=1)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    picture = repository / "build" / "screenshots" / f"report-{scheme}-{width}.png"
    page.screenshot(path=picture, full_page=True)


def test_a_sweep_is_readable(browser, tmp_path):
    """Of 44 models, with a mixture of 24 layers and 16 experts. Closed it is short. Open, its
    headings, labels and numbers can be read.

    The level lines of base and sft coincide. Between two swept values, the colours are those of
    all names.
    """
    runs = Runs(tmp_path)
    rates, counts = [n * 1e-5 for n in range(1, 8)], [4, 8]
    points = [dict(zip(SWEPT, point, strict=True)) for point in product(rates, counts)]
    for point in points:
        name = f"rate={point[SWEPT[0]]:g}, experts={point[SWEPT[1]]}"
        about = {"variant": name, "swept": json.dumps(point), "dataset": "own", "count": 20}
        about["families"] = "HumanEval_34_unique", "HumanEval_27_flip_case"
        for model in ("base", "sft"):
            runs.add(model, 9, losses=(1 / 9, 2 / 9), **about)
            shared = runs.rows[0 if model == "base" else 1]
            runs.rows[-1] |= {key: shared[key] for key in ("eval", "validation_loss")}
        for number in range(1, 4):
            solved = round(5 + 1e5 * point[SWEPT[0]] + number)
            losses = 1 / solved, 2 / solved
            runs.add(f"dense/lam~0.{number}", solved, losses=losses, **about)
        for row in runs.rows[-5:]:
            write_solutions(tmp_path / row["eval"])
    runs.summarise()
    step = {"step": 1, "loss": 1, "entropy": [1], "load": [[1] * 16] * 24}
    write_whole(tmp_path / "metrics" / "moe.jsonl", json.dumps(step) + "\n")
    write_whole(tmp_path / "moe" / "config.json", '{"upcycled_layers": null}')
    report.main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    for width in (1280, NARROW):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "report.html").as_uri())
        wait_for_charts(page)
        assert page.evaluate("document.documentElement.scrollHeight") < 18 * 900
        open_all(page)
        heads = page.locator(".problems .head > span")
        assert heads.get_by_text("base", exact=True).count() == 1
        assert heads.get_by_text("dense 0.").count() == 9
        chart = page.locator(".chart").first
        names = chart.locator(".mark-text.role-mark text").all()
        box, colours = chart.bounding_box(), {name.get_attribute("fill") for name in names}
        middle = box | {"x": box["x"] + 0.3 * box["width"], "width": 0.2 * box["width"]}
        picture = b64encode(page.screenshot(clip=middle, full_page=True)).decode()
        page.goto("about:blank")
        assert len(colours) == 5 and colours <= {*run_script(page, "colours", picture)}


@pytest.mark.parametrize(
    "ordered",
    [
        ["-", "-4.1 (-6.0 to -2.0)", "< 0.001", "0.012", "(7)", "1.5e+02", "1,234", "12,345.5"],
        ["", "none", "2e-05", "0.001", "7 % (1 to 9)", "1,234,567"],
        ["HumanEval/2", "HumanEval/10", "Mbpp/1"],
        ["base", "moe_sft 2", "moe_sft 10", "sft"],
    ],
)
def test_cells_are_sorted_as_a_reader_reads_them(browser, tmp_path, ordered):
    """Texts, then numbers by their value: with commas, below a limit, with an interval."""
    write_results(tmp_path, {"base": 3, "sft": 9})
    report.main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    for cells in (ordered[::-1], sorted(ordered)):
        rows = "".join(f"<tr><td>{cell.replace('<', '&lt;')}</td></tr>" for cell in cells)
        table = page.locator("table.sortable").first
        table.evaluate("(found, rows) => { found.tBodies[0].innerHTML = rows; }", rows)
        table.locator("th button").first.click()
        found = table.locator("tbody td").all_text_contents()
        is_ascending = table.locator("th[aria-sort=ascending]").count()
        assert (found if is_ascending else found[::-1]) == ordered


def test_a_table_is_sorted_by_mouse_and_by_keys(browser, address):
    page = browser.new_page()
    page.goto(address)
    table = page.locator("#scores table.sortable", has_text="pass@1")
    heading = table.get_by_role("button", name="pass@1, %")

    def shares() -> list[float]:
        return [float(text) for text in table.locator("tbody td:nth-child(4)").all_inner_texts()]

    heading.click()
    assert shares() == sorted(shares())
    heading.press("Enter")
    assert shares() == sorted(shares(), reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
