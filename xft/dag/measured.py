"""What the store holds for a plan: the lengths of rows, and what jobs cost."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from xft.common.errors import UserError
from xft.common.json_files import read_json
from xft.config.sections import WorkflowConfig
from xft.config.steps import TRAINING_SECTIONS
from xft.config.training import TrainingConfig
from xft.dag.node import Node
from xft.estimates.lengths import Lengths
from xft.estimates.report import Plan
from xft.estimates.rows import sample_lengths, stored_lengths
from xft.store.job_records import COSTS_FILE, total_cost
from xft.store.store import ENTRY_FILE, Recipe, is_whole

FindPlan = Callable[[WorkflowConfig], Plan]


@cache
def row_lengths(tokens: Node) -> Lengths | None:
    """The lengths of rows: of tokens in the store, or else of a sample; None if unknown.

    The steps tell what is wrong with the rows.
    """
    config = tokens.run.config
    with suppress(UserError, LookupError, OSError):
        if is_whole(tokens.entry):
            return stored_lengths(tokens.place)
        return sample_lengths(config.data, Path(config.base.model))
    return None


def hours_of(entry: Path) -> float | None:
    """The hours that an entry's job took in all its attempts; None if nothing says it."""
    with suppress(UserError, LookupError, TypeError):
        return total_cost(entry / COSTS_FILE)["seconds"] / 3600


def speeds(nodes: Iterable[Node], plan_of: FindPlan) -> dict[str, float]:
    """FLOPs a second of a process, by the section of a training: of the longest job in the store.

    It has the same inputs as one of these nodes, such as a training with fewer steps. The time to
    start counts. The longest job's section is first.
    """
    longest: dict[str, tuple[float, float]] = {}
    recipes = cache(lambda folder: [*_recipes(folder)])
    for node in nodes:
        section = TRAINING_SECTIONS.get(node.step)
        if section is None or "match_flops" in node.options:
            continue
        for recipe, hours in recipes(node.entry.parent):
            options = _options(recipe, node, section)
            if options and hours > longest.get(section, (0, 0))[0]:
                config = node.config.model_copy(update={section: options})
                plan = replace(plan_of(node.config), config=config, processes=None)
                if work := plan.work(section, expected=True):
                    seconds = 3600 * hours * plan.job(section).processes
                    longest[section] = hours, work.flops / seconds
    return {name: speed for name, (_, speed) in sorted(longest.items(), key=lambda f: -f[1][0])}


def _recipes(folder: Path) -> Iterator[tuple[Recipe, float]]:
    """The recipes of a step's entries whose cost is known, each with the hours."""
    for entry in filter(is_whole, folder.glob("*")):
        hours = hours_of(entry)
        if hours:
            yield Recipe(**read_json(entry / ENTRY_FILE)["recipe"]), hours


def _options(recipe: Recipe, node: Node, section: str) -> TrainingConfig | None:
    """The options of a training in the store; None if its inputs or threads are not a node's."""
    threads = (recipe_of.options.get("threads") for recipe_of in (recipe, node.recipe))
    if recipe.inputs != node.recipe.inputs or next(threads) != next(threads):
        return None
    start = f"{section}."
    keys = {
        key.removeprefix(start): v for key, v in recipe.options.items() if key.startswith(start)
    }
    with suppress(ValueError):
        return type(getattr(node.config, section))(**keys)
    return None
