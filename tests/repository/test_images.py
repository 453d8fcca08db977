"""The pictures say what the texts and the rules say."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import networkx
from documents import ROOT

from xft.config.runs import read_overlaid
from xft.dag.workflow_run import WorkflowRun

README = (ROOT / "README.md").read_text()
IMAGES = ROOT / "docs" / "images"


def test_the_figure_shows_the_scores_of_the_table():
    score = r"([\d.]+) % \(([\d.]+) to ([\d.]+); \d+\)"
    table = re.findall(rf"^\| ([^|]+?) +\| .* \| {score} +\| [\d.]+ +\|$", README, re.MULTILINE)
    point = r'%: ([^;]+); label: [^;]+; model: ([^;]+); seed: ; low: ([^;]+); high: ([^"]+)"'
    shown = re.findall(point, (IMAGES / "scores.svg").read_text())
    assert len(table) == 4
    assert [(model, f"{float(solved):.1f}", *bounds) for solved, model, *bounds in shown] == table


def test_the_workflow_numbers_the_steps_as_the_table_does():
    texts = [*ElementTree.parse(IMAGES / "workflow.svg").iter("{http://www.w3.org/2000/svg}text")]
    numbers = {text.get("y"): text.text for text in texts if text.get("class") == "number"}
    steps = {text.text: numbers.get(text.get("y")) for text in texts if text.get("x") == "385"}
    assert steps.pop("summary") is None
    table = (ROOT / "docs" / "reference.md").read_text().partition("\n## Commands\n")[0]
    assert [*steps.items()] == re.findall(r"`(\w+)` \(([\d, ]+)\)", table)


class Picture:
    """The boxes of the picture by their names, and its arrows as lines."""

    def __init__(self, file: Path):
        nodes = list(ElementTree.parse(file).getroot().iter())
        self.places = {}
        for box, node in pairwise(nodes):
            if node.get("class") == "rule":
                width = float(box.get("width", 180))  # 180: of the text without a box
                self.places[node.text] = float(node.get("x")), float(node.get("y")), width / 2
        self.lines = [[*corners(n.get("d"))] for n in nodes if n.get("class") == "arrow"]

    def at(self, point: tuple[float, float]) -> list[str]:
        """The rules at the end of an arrow. A text of several names stands for all of them."""
        x, y = point
        for name, (middle, line, half) in self.places.items():
            if abs(x - middle) <= half + 2 and abs(y - line) <= 15:
                return name.split(", ")
        return []

    def graph(self) -> networkx.DiGraph:
        edges = ((a, b) for line in self.lines for a in self.at(line[0]) for b in self.at(line[-1]))
        return networkx.DiGraph(edges)


def corners(path: str):
    """The points of a path of horizontal and vertical lines."""
    x = y = 0.0
    for kind, numbers in re.findall(r"([MHV])([\d. ]+)", path):
        given = [float(number) for number in numbers.split()]
        x = given[0] if kind in "MH" else x
        y = given[-1] if kind in "MV" else y
        yield x, y


def test_the_rules_depend_on_each_other_as_readme_shows(repository, monkeypatch):
    """But for rules that the picture leaves out, and for arrows that follow from others. Rules have
    the inputs of the graph's nodes (test_graph.py).
    """
    monkeypatch.chdir(repository / ".test")
    values, _ = read_overlaid([Path("config.yaml")])
    nodes = WorkflowRun(values).experiment.known
    whole = networkx.DiGraph((each.step, node.step) for node in nodes for each in node.sources)
    shown = Picture(repository / "docs" / "images" / "workflow.svg").graph()
    behind = networkx.transitive_closure(whole).subgraph(shown)
    assert set(shown) == set(behind)
    reduced = (set(networkx.transitive_reduction(graph).edges) for graph in (shown, behind))
    assert next(reduced) == next(reduced)
