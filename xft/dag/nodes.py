"""The nodes of the graph: artifacts to make, with recipe, inputs and names."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xft.artifacts.manifest import json_sha256
from xft.common.user_code import UserCode, program_files
from xft.config.runs import Run
from xft.config.sections import WorkflowConfig
from xft.data.prompt_templates import read_template
from xft.data.row_files import CSV
from xft.hub.named_sets import NAMED_SETS, unpacked_sha256
from xft.hub.source import check_model
from xft.store.code import Code
from xft.store.file_hashes import FileHashCache, content_hash
from xft.store.store import Recipe, Store


class FileContents:
    """The hashes of files that configurations name. file_hashes: their cache, between runs."""

    def __init__(self, file_hashes: FileHashCache | None = None):
        self.file_hashes = file_hashes or FileHashCache()
        self._models: dict[tuple[str, bool], dict[str, str]] = {}

    def template(self, name: str) -> str:
        """The text of a template, named or a file."""
        return read_template(name)

    def of_file(self, path: str) -> str:
        return self.file_hashes.of(Path(path), content_hash)

    def of_rows(self, path: str) -> str:
        """As `of_file`. The same content has other rows as CSV than as JSON Lines."""
        content = self.of_file(path)
        return json_sha256(["csv", content]) if CSV.search(path) else content

    def of_model(self, folder: str, is_tuned: bool = False) -> dict[str, str]:
        """The hash of each file of a base, or of a model that was tuned elsewhere, by name."""
        known = (folder, is_tuned)
        if known not in self._models:
            place = Path(folder)
            files = check_model(place, is_base=not is_tuned)
            self._models[known] = self.of_files(place, files)
        return self._models[known]

    def of_code(self, code: UserCode) -> dict[str, str]:
        """The hash of each file of code of the user's, by name."""
        return self.of_files(code.file.parent, program_files(code.file).values())

    def of_files(self, folder: Path, files: Iterable[Path]) -> dict[str, str]:
        """The hash of each of some files below a folder, by name."""
        return {file.relative_to(folder).as_posix(): self.of_file(str(file)) for file in files}

    def of_problems(self, name: str) -> str:
        """The text that stands in a recipe for the content of a data set, named or a file."""
        if name in NAMED_SETS:
            return NAMED_SETS[name].recipe_input
        return self.file_hashes.of(Path(name), unpacked_sha256)


class NoContents(FileContents):
    """Stands for contents that nobody reads: of files that may not be on this machine."""

    def template(self, name: str) -> str:
        return name

    def of_file(self, path: str) -> str:
        return path

    def of_model(self, folder: str, is_tuned: bool = False) -> dict[str, str]:
        return {"": folder}

    def of_code(self, code: UserCode) -> dict[str, str]:
        return {code.file.name: str(code.file)}

    def of_problems(self, name: str) -> str:
        if name in NAMED_SETS:
            return super().of_problems(name)
        return name


@dataclass(frozen=True)
class Input:
    """Something that a job reads.

    name: of the input in the step's rule.
    paths: the store's entry or the user's files, which Snakemake waits for; none for a value.
    recipe_inputs: what stands for the content among the recipe's inputs, by name. Empty if
        something else does.
    recorded: what stands for it among the recipe's options, by key.
    flags: of the step's command.
    node: that makes it; None for files of the user's.
    keys: of the configuration that it depends on.
    """

    name: str
    paths: tuple[str, ...] = ()
    recipe_inputs: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, object] = field(default_factory=dict)
    flags: Mapping[str, object] = field(default_factory=dict)
    node: "Node | None" = None
    keys: frozenset[str] = frozenset()


def made(
    name: str,
    node: "Node",
    flag: str | None = None,
    recipe_inputs: Mapping[str, str] | None = None,
    **flags: object,
) -> Input:
    """An artifact as an input.

    flag: that gives its place to the command, by default its name; empty if none does. flags: more.
    recipe_inputs: as in `Input`, by default its digest by its name.
    """
    if recipe_inputs is None:
        recipe_inputs = {name: node.digest}
    if flag is None:
        flag = name
    if flag:
        flags = {flag: node.place, **flags}
    return Input(
        name,
        paths=(str(node.entry),),
        recipe_inputs=recipe_inputs,
        flags=flags,
        node=node,
        keys=node.keys,
    )


@dataclass(eq=False)
class Node:
    """An artifact that a configuration asks for. Runs with equal recipes share it.

    recipe: everything that determines its content.
    run: the first that asks for it.
    entry: its folder in the store.
    file: its file or folder in the entry.
    inputs: what its job reads.
    flags: of its command, but for those of what it writes.
    keys: those of the configuration that it depends on, directly or through its inputs.
    names: in the results folder.
    texts: files that its step reads, by their name in the entry.
    one_of: the results of all settings. Its job reads a choice, and takes the result of the chosen
        setting. If that result is missing, the job makes it first.
    """

    recipe: Recipe
    run: Run = field(repr=False)
    entry: Path
    file: str
    inputs: tuple[Input, ...] = ()
    flags: Mapping[str, object] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    names: list[str] = field(default_factory=list)
    texts: Mapping[str, str] = field(default_factory=dict)
    one_of: "tuple[Node, ...]" = ()

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

    def add_name(self, name: str) -> None:
        """Give it one more name in the results folder, if it has not this one."""
        if name not in self.names:
            self.names.append(name)

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


def with_results(nodes: Iterable[Node]) -> list[Node]:
    """Nodes, with the results from which choices take in place of what is taken."""
    results: dict[Node, None] = {}  # in order, each once
    for node in nodes:
        for result in node.one_of or (node,):
            results[result] = None
    return list(results)


class Nodes:
    """The nodes of all runs, by digest: who asks for an equal recipe gets the same node."""

    def __init__(self, store: Store, contents: FileContents, code: Code):
        self.store = store
        self.contents = contents
        self.code = code
        self._by_digest: dict[str, Node] = {}

    def get(self, step: str, options: dict, inputs: Iterable[Input], **fields) -> Node:
        """The node of a recipe with these options. fields: the others of a new node."""
        inputs = tuple(inputs)
        recipe_inputs = {}
        for item in inputs:
            recipe_inputs |= item.recipe_inputs
        recipe = Recipe(step, self.code.version_of(step), options, recipe_inputs)
        digest = recipe.digest
        if digest not in self._by_digest:
            entry = self.store.entry(step, digest)
            self._by_digest[digest] = Node(recipe, entry=entry, inputs=inputs, **fields)
        return self._by_digest[digest]
