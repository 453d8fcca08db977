"""The rules depend on each other as the picture of README shows."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import networkx

from xft.config.runs import read_overlaid
from xft.dag.run import WorkflowRun


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
