"""A node of the graph: an artifact to make, what its job reads, and its names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xft.config.runs import Run
from xft.config.sections import WorkflowConfig
from xft.store.store import Recipe


@dataclass(frozen=True)
class Input:
    """Something that a job reads.

    name: of the input in the step's rule.
    paths: the store's entry or the user's files, which Snakemake waits for.
    identity: what stands for the content in the recipe, by name; empty if another input's does.
    node: that makes it; None for files of the user's.
    flags: of the step's command that name it, if the rule's own command does not.
    """

    name: str
    paths: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    node: "Node | None" = None
    flags: Mapping[str, object] = field(default_factory=dict)

    @property
    def places(self) -> list[str]:
        """The files or folders that the step reads: below an entry, or the user's own."""
        return list(self.paths) if self.node is None else [str(self.node.place)]


def made(name: str, node: "Node", identity: str | None = None, **flags: object) -> Input:
    """An artifact as an input. identity: its name in the recipe, if that is another one."""
    return Input(name, (str(node.entry),), {identity or name: node.digest}, node, flags)


def order_only(name: str, node: "Node", identity: Mapping[str, str]) -> Input:
    """An artifact whose content stands in the recipe in place of its digest."""
    return Input(name, (str(node.entry),), identity, node)


@dataclass(eq=False)
class Node:
    """An artifact that a configuration asks for. Runs with equal recipes share it.

    recipe: everything that determines its content.
    run: the first that asks for it.
    entry: its folder in the store.
    file: its file or folder in the entry.
    inputs: what its job reads.
    keys: those of the configuration that it depends on, directly or through its inputs.
    options: flags of its command, beside those of its rule and its inputs.
    names: in the results folder.
    """

    recipe: Recipe
    run: Run = field(repr=False)
    entry: Path
    file: str
    inputs: tuple[Input, ...] = ()
    keys: frozenset[str] = frozenset()
    options: Mapping[str, object] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def step(self) -> str:
        """The step that makes it, and its rule."""
        return self.recipe.step

    @property
    def config(self) -> WorkflowConfig:
        return self.run.config

    @property
    def digest(self) -> str:
        return self.recipe.digest

    @property
    def name(self) -> str:
        """Its first name in the results folder."""
        return self.names[0]

    @property
    def place(self) -> Path:
        return self.entry / self.file

    @property
    def sources(self) -> list["Node"]:
        """The nodes that it is directly made from."""
        return [item.node for item in self.inputs if item.node is not None]

    def source(self, name: str) -> "Node":
        """The node that makes an input."""
        return next(item.node for item in self.inputs if item.name == name)

    @property
    def is_temporary(self) -> bool:
        """Whether a run removes it in the end: a merge, after its evaluation."""
        return self.step == "dense" and self.config.merge.keep == "none"

    @property
    def flags(self) -> dict[str, object]:
        """The flags of its command that are not in its rule."""
        flags = dict(self.options)
        for item in self.inputs:
            flags |= item.flags
        return flags

    def ancestors(self) -> Iterator["Node"]:
        """All that it is directly or indirectly made from, each once and in order; itself last."""
        seen: dict[Node, None] = {}

        def visit(node: Node) -> None:
            if node not in seen:
                for source in node.sources:
                    visit(source)
                seen[node] = None

        visit(self)
        yield from seen
