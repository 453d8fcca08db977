"""Tells why steps run again: the values and files that their earlier results were made from."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from xft.artifacts.artifact import ENTRY_FILE
from xft.common.errors import UserError
from xft.common.json_files import read_json
from xft.dag.nodes import Input, Node
from xft.store.store import Recipe, is_whole

LONGEST = 80  # characters of a value


def find_earlier_recipes(results: Path, nodes: Iterable[Node]) -> dict[Node, Recipe]:
    """The recipes of what a results folder shows under the names of missing artifacts."""
    recipes = {}
    for node in nodes:
        if is_whole(node.entry):
            continue
        entry = _earlier_entry(results, node)
        if entry is not None:
            with suppress(UserError, KeyError, TypeError):  # a damaged entry tells nothing
                recipes[node] = Recipe(**read_json(entry / ENTRY_FILE)["recipe"])
    return recipes


def _earlier_entry(results: Path, node: Node) -> Path | None:
    """The entry of the same step that the results folder links under a name of an artifact.

    None if it links no such entry.
    """
    entries = node.entry.parent.resolve()
    for name in node.names:
        for folder in (results / name).resolve().parents:
            if folder.parent == entries and is_whole(folder):
                return folder
    return None


def rerun_reasons(earlier: Mapping[Node, Recipe], to_make: Iterable[Node]) -> Iterator[str]:
    """A line for each difference, with the steps that run again for it.

    A step that runs again because an artifact that it reads is another one has no line: the step
    that makes this artifact has one.

    earlier: the recipes of earlier results, by the artifacts that take their places.
    """
    steps_of: dict[str, dict[str, None]] = {}  # of each difference, in order
    for node in to_make:
        if node in earlier:
            for difference in _differences(node, earlier[node]):
                steps_of.setdefault(difference, {})[node.step] = None
    for difference, steps in steps_of.items():
        yield f"Runs again: {', '.join(steps)} ({difference})"


def _differences(node: Node, earlier: Recipe) -> Iterator[str]:
    """What an artifact's recipe says otherwise than that of an earlier one, in words.

    Edited code has a line of its own in the run's messages.
    """
    files_of = {key: item.paths for item in node.inputs for key in item.recorded}
    before = earlier.options
    now = node.recipe.options
    for key in before | now:
        if before.get(key) == now.get(key):
            continue
        if files_of.get(key):
            yield f"{key}: other content of {', '.join(files_of[key])}"
        else:
            yield f"{key}: {_shown(before, key)} -> {_shown(now, key)}"
    for item in node.inputs:
        if item.node is None and _is_other(item, earlier):
            files = ", ".join(item.paths) or item.name
            yield f"other content of {files}"
    is_edited = isinstance(node.recipe.version, str)
    if earlier.version != node.recipe.version and not is_edited:
        yield "another version of the step's code"


def _shown(options: Mapping[str, object], key: str) -> str:
    """A value in a line. A recipe holds no values that are the defaults."""
    return shorten(str(options.get(key, "the default")), LONGEST, placeholder="...")


def _is_other(item: Input, earlier: Recipe) -> bool:
    """Whether an input was another one, or none, for an earlier recipe."""
    return any(earlier.inputs.get(name) != digest for name, digest in item.recipe_inputs.items())
