"""Methods at their chosen settings: the graph of a configuration with `choose`.

A method is a kind of model of a variant, such as `dense`. Its settings are the combinations of
swept values, and of lambda, that give different models. The rule `choose` reads the losses of all
settings and seeds. What is measured of the chosen model depends on this choice, which nobody knows
before the jobs run. So `measure_chosen` has a recipe that names the choice and the result of each
setting. Its job makes the result of the chosen one under that one's own recipe, and takes it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from xft.common.results_folder import CHOSEN
from xft.config import sections
from xft.config.runs import Run, leaves
from xft.config.steps import STEPS, TRAINING_SECTIONS
from xft.dag.graph import Graph, Model
from xft.dag.nodes import Input, Node, Nodes, made
from xft.evaluation.choice import Candidate, write_candidates

CANDIDATES_FILE = "candidates.csv"
SHORT = {"merge.lambdas": "lambda"}  # names of keys in words
# What is measured, by step: its name in the folder of the method.
NAMES = {
    "eval": "eval/{label}.json",
    "validation_loss": "validation.json",
    "diversity": "diversity.json",
    "contamination": "contamination/{label}.json",
}


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    place: of the run among those of its variant and seed.
    """

    place: int
    model: Model


@dataclass(frozen=True)
class Tried:
    """A setting with a seed, which a choice is made from.

    setting: its name.
    loss: the node of the loss on the rows of the choice.
    model: the node of the model.
    """

    setting: str
    seed: int
    loss: Node
    model: Node


class Methods:
    """The methods of a variant with a seed, in the form of a `Graph`.

    run: with the values that all settings share.
    graphs: of all points of the sweep, in order.
    of_seeds: the methods of the same variant with each seed, this one included.
    """

    def __init__(self, graphs: Sequence[Graph], nodes: Nodes):
        first = graphs[0].run
        shared_changes = {}
        for key, text in first.changes.items():
            if all(graph.run.changes.get(key) == text for graph in graphs):
                shared_changes[key] = text
        self.graphs = graphs
        self.nodes = nodes
        self.of_seeds = [self]
        self.run = Run(
            first.config,
            first.variant,
            shared_changes,
            control=first.control_variant,
            own_name=first.own_name,
        )
        self.config = first.config
        # They are asked for again and again.
        self.settings = cache(self.settings)
        self.choice = cache(self.choice)

    @property
    def data_sets(self) -> dict[str, str]:
        return self.graphs[0].data_sets

    def main_models(self) -> list[Node]:
        return [node for graph in self.graphs for node in graph.main_models()]

    def models(self) -> list[Model]:
        """The methods to evaluate. Lambda belongs to the setting."""
        return [Model(kind) for kind in self.config.evaluation.models]

    def settings(self, kind: str) -> list[Setting]:
        """The settings that give different models, in the order of the configuration."""
        settings: dict[tuple[str, ...], Setting] = {}  # by the digests of the models of all seeds
        for place, graph in enumerate(self.graphs):
            lambdas = graph.config.merge.lambdas if kind in sections.MERGED else [None]
            for lam in lambdas:
                setting = Setting(place, Model(kind, lam))
                digests = tuple(methods.node_of(setting).digest for methods in self.of_seeds)
                settings.setdefault(digests, setting)
        return list(settings.values())

    def node_of(self, setting: Setting) -> Node:
        """The model of a setting."""
        return self.graphs[setting.place].node_of(setting.model)

    def measured(self, model: Model, label: str) -> dict[str, Node]:
        """The measurements of a method on a data set, by step, and its choice."""
        results = []
        for setting in self.settings(model.kind):
            results.append(self.graphs[setting.place].measured(setting.model, label))
        if len(results) == 1:
            return results[0]
        chosen = {}
        for step in results[0]:
            name = NAMES[step].format(label=label)
            chosen[step] = self._one_of(name, model.kind, [result[step] for result in results])
        chosen["choose"] = self.choice(model.kind)
        return chosen

    def choice(self, kind: str) -> Node:
        """The setting of a method that is evaluated."""
        tried = self._tried(kind)
        inputs = []
        for number, candidate in enumerate(tried, 1):
            recipe_inputs = {f"loss {number}": candidate.loss.digest}
            inputs.append(made("losses", candidate.loss, flag="", recipe_inputs=recipe_inputs))
        inputs.append(made("tokens", self.graphs[0].tokens, flag="data"))
        options = {"candidates": [[candidate.setting, candidate.seed] for candidate in tried]}
        keys = frozenset().union(*(item.keys for item in inputs)) - {"seed"}
        node = self._node("choose", options, inputs, keys, CHOSEN)
        if not node.texts:
            node.texts = {CANDIDATES_FILE: write_candidates(_rows(node, tried))}
        self._name(node, f"{kind}.json")
        return node

    def _tried(self, kind: str) -> list[Tried]:
        """Each setting of a method with each seed."""
        settings = self.settings(kind)
        tried = []
        for setting, name in zip(settings, self._names(settings), strict=True):
            for methods in self.of_seeds:
                graph = methods.graphs[setting.place]
                loss = graph.choice_loss(setting.model)
                tried.append(Tried(name, graph.config.seed, loss, methods.node_of(setting)))
        return tried

    def _one_of(self, name: str, kind: str, candidates: Sequence[Node]) -> Node:
        """The one of some results that belongs to the chosen setting."""
        if len({*candidates}) == 1:  # it does not depend on the setting
            return candidates[0]
        choice = made("choice", self.choice(kind))
        keys = frozenset().union(*(result.keys for result in candidates))
        results = Input(
            "results",
            recipe_inputs={f"result {n}": result.digest for n, result in enumerate(candidates, 1)},
            flags={"results": [result.place for result in candidates]},
            keys=keys,
        )
        # The job may make any of them, and so waits for what each is made from.
        sources: dict[Node, None] = {}  # in order, each once
        for result in candidates:
            for source in result.sources:
                sources[source] = None
        read = [made("read", source, flag="", recipe_inputs={}) for source in sources]
        inputs = [choice, results, *read]
        node = self._node("measure_chosen", {}, inputs, keys, candidates[0].file)
        node.one_of = tuple(candidates)
        self._name(node, f"{kind}/{name}")
        return node

    def _node(
        self, step: str, options: dict, inputs: list[Input], keys: frozenset[str], file: str
    ) -> Node:
        flags = {}
        for item in inputs:
            flags |= item.flags
        keys = keys | STEPS[step].keys
        return self.nodes.get(
            step, options, inputs, run=self.run, file=file, flags=flags, keys=keys
        )

    def _name(self, node: Node, name: str) -> None:
        node.add_name(f"{self.run.folders(node.keys)}chosen/{name}")

    def _names(self, settings: Iterable[Setting]) -> list[str]:
        """The values in which settings differ, in words, such as `moe_sft.learning_rate=0.001`."""
        values = []
        for setting in settings:
            known = leaves(self.graphs[setting.place].config)
            read = {key: known[key] for key in self.node_of(setting).keys if key in known}
            if setting.model.lam is not None:
                read["merge.lambdas"] = setting.model.lam
            values.append(read)
        different = []
        for key in sorted(set().union(*values)):
            texts = {_text(of_setting.get(key)) for of_setting in values}
            if len(texts) > 1:
                different.append(key)
        names = []
        for of_setting in values:
            parts = [f"{SHORT.get(key, key)}={_text(of_setting.get(key))}" for key in different]
            names.append(", ".join(parts))
        return names


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rows(choice: Node, tried: Iterable[Tried]) -> Iterator[Candidate]:
    """The candidates of a choice, with paths as seen from its entry."""
    for candidate in tried:
        rows, epochs = _cost(candidate.model)
        yield Candidate(
            setting=candidate.setting,
            seed=candidate.seed,
            rows=rows,
            epochs=epochs,
            loss=os.path.relpath(candidate.loss.place, choice.entry),
            model=os.path.relpath(candidate.model.place, choice.entry),
        )


def _cost(model: Node) -> tuple[float, float]:
    """The rows, and the epochs, that the trainings of a model see.

    Each counts once for each expert that computes a token. The mixing computes it by merged ones.
    """
    rows = 0.0
    epochs = 0.0
    for node in model.ancestors():
        section = TRAINING_SECTIONS.get(node.step)
        if section is None:
            continue
        matches = "match_flops" in node.flags
        options = node.config.sft_flops if matches else getattr(node.config, section)
        has_experts = node.step == "moe_sft" or matches
        experts = node.config.moe.num_experts_per_tok if has_experts else 1
        if options.max_steps:
            rows += experts * options.max_steps * options.global_batch
        else:
            epochs += experts * options.num_train_epochs
    return rows, epochs


def methods_of(graphs: Iterable[Graph], nodes: Nodes) -> list[Methods]:
    """The methods of each variant with each seed, in the order of the configuration."""
    groups: dict[tuple[str, int], list[Graph]] = {}
    for graph in graphs:
        groups.setdefault((graph.run.variant, graph.config.seed), []).append(graph)
    methods = {key: Methods(group, nodes) for key, group in groups.items()}
    of_variants: dict[str, list[Methods]] = {}
    for (variant, _), of_seed in methods.items():
        of_seed.of_seeds = of_variants.setdefault(variant, [])
        of_seed.of_seeds.append(of_seed)
    return list(methods.values())
