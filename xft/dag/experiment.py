"""All runs of a configuration: the artifacts that they share."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.config.reading import shown_choices
from xft.config.runs import Run
from xft.config.sections import WorkflowConfig, dataset_name
from xft.config.steps import STEPS
from xft.dag import runs_table
from xft.dag.choices import Methods, methods_of
from xft.dag.graph import Graph
from xft.dag.nodes import FileContents, Input, Node, Nodes, made, with_results
from xft.reporting.run_table import MEASURED, RunRow
from xft.store.code import Code
from xft.store.store import Store


class Experiment:
    """The artifacts that all runs of a configuration want.

    evaluated: the graphs of what is evaluated: all runs, or their methods at chosen settings.
    """

    def __init__(self, config: WorkflowConfig, runs: list[Run], contents: FileContents):
        """Raises UserError if two different sets of problems have the same name."""
        self.config = config
        self.results = Path(config.results_dir)
        self.store = Store(Path(config.store))
        self.publish = config.publish
        self.code = Code(contents.file_hashes)
        self.nodes = Nodes(self.store, contents, self.code)
        self.graphs = [Graph(run, self.nodes) for run in runs]
        self._find_seeds()
        self._check_data_sets()
        self.evaluated: list[Graph | Methods] = self.graphs
        if config.choose is not None:
            self.evaluated = methods_of(self.graphs, self.nodes) or self.graphs

    def _find_seeds(self) -> None:
        """Let each run know those that differ from it in the seed alone."""
        groups: dict[str, list[Graph]] = {}
        for graph in self.graphs:
            key = graph.config.model_copy(update={"seed": 0}).model_dump_json()
            graph.of_seeds = groups.setdefault(key, [])
            graph.of_seeds.append(graph)

    def _check_data_sets(self) -> None:
        names: dict[str, str] = {}
        for config in (self.config, *(graph.config for graph in self.graphs)):
            for name in [*config.evaluation.datasets, *config.data.decontaminate_against]:
                label = dataset_name(name)
                first = names.setdefault(label, name)
                if first != name:
                    raise UserError(
                        f"config: the problems {first} and {name} would both have the name "
                        f"{label} in the results. Rename a file"
                    )

    @cached_property
    def wanted(self) -> list[Node]:
        """All artifacts that a run of the workflow makes, each after those that it is made from."""
        return list(self.report.ancestors())

    @cached_property
    def known(self) -> list[Node]:
        """All wanted artifacts, and what a user may ask for by name: the models of each run, and
        the results from which choices take.
        """
        targets = [model for graph in self.graphs for model in graph.main_models()]
        targets += with_results(self.wanted)
        nodes: dict[Node, None] = {}  # in order, each once
        for target in [self.report, *targets]:
            for node in target.ancestors():
                nodes[node] = None
        return list(nodes)

    @cached_property
    def tried(self) -> set[Node]:
        """The artifacts that choices read. A training that diverges there leaves a setting out."""
        tried: set[Node] = set()
        for node in self.wanted:
            if node.step == "choose":
                for source in node.sources:
                    tried.update(source.ancestors())
        return tried

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """The known artifacts by their names in the results folder."""
        return {name: node for node in self.known for name in node.names}

    @cached_property
    def shown_results(self) -> dict[Node, str]:
        """The results that the summary shows, each with its name."""
        return {
            node: node.name
            for graph in self.evaluated
            for label in graph.data_sets
            for model in graph.models()
            for node in graph.measured(model, label).values()
        }

    @cached_property
    def rows(self) -> list[RunRow]:
        """The rows of the table of runs, which name the files of the store."""
        return runs_table.rows(self.evaluated, self.shown_results)

    def table(self, folder: Path) -> str:
        """The table of runs as CSV, with paths as seen from a folder."""
        return runs_table.as_seen_from(folder, self.rows)

    @cached_property
    def summary(self) -> Node:
        """The tables of results. Their recipe holds the names that they show."""
        rows = []
        for row in self.rows:
            names = row.model_dump(mode="json", exclude={*MEASURED})
            rows.append(names | {"files": sorted(row.files)})
        select = self.config.merge.select
        chosen_by = None if select == "auto" else select
        inputs = [
            made("results", node, flag="", recipe_inputs={f"results {number}": node.digest})
            for number, node in enumerate(self.shown_results)
        ]
        options = {"rows": rows, "chosen_by": chosen_by}
        return self._of_all_runs("summary", options, inputs, {"chosen_by": chosen_by})

    @cached_property
    def report(self) -> Node:
        """The page about the results. Its recipe holds the configuration that it shows."""
        options = {"config": shown_choices(self.config)}
        return self._of_all_runs("report", options, [made("summary", self.summary, flag="")], {})

    @property
    def ends(self) -> list[Node]:
        """The last artifacts of a run."""
        return [self.summary, self.report]

    def _of_all_runs(
        self, step: str, options: dict, inputs: list[Input], flags: Mapping[str, object]
    ) -> Node:
        file = STEPS[step].file
        run = Run(self.config)
        return self.nodes.get(step, options, inputs, run=run, file=file, flags=flags, names=[file])
