"""The pictures say what the texts say."""

import re
from xml.etree import ElementTree

from documents import ROOT

README = (ROOT / "README.md").read_text()
IMAGES = ROOT / "docs" / "images"


def test_the_figure_shows_the_scores_of_the_table():
    score = r"([\d.]+) % \(([\d.]+) to ([\d.]+); \d+\)"
    table = re.findall(rf"^\| (\S+) .* \| {score} +\| [\d.]+ +\|$", README, re.MULTILINE)
    shown = r'model: (\S+); seed: ; pass@1, %: (\S+); low: (\S+); high: (\S+)"'
    assert len(table) == 4
    assert re.findall(shown, (IMAGES / "scores.svg").read_text()) == table


def test_the_workflow_numbers_the_steps_as_the_table_does():
    texts = [*ElementTree.parse(IMAGES / "workflow.svg").iter("{http://www.w3.org/2000/svg}text")]
    numbers = {text.get("y"): text.text for text in texts if text.get("class") == "number"}
    steps = {text.text: numbers.get(text.get("y")) for text in texts if text.get("x") == "385"}
    assert steps.pop("summary") is None
    table = (ROOT / "docs" / "reference.md").read_text().partition("\n## Commands\n")[0]
    assert [*steps.items()] == re.findall(r"`(\w+)` \(([\d, ]+)\)", table)
