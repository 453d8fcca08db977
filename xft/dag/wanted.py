"""An artifact that a configuration wants, with its options and inputs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xft.dag.contents import FileContents
from xft.store.recipe import Recipe
from xft.store.store import Store

if TYPE_CHECKING:
    from xft.dag.wants import Wants

# Options of recipes that are no flags with the same value: the content of a file that a flag names,
# what a table or a page shows, what a merge is chosen from, and several flags in one.
NO_FLAGS = ("prompt", "template", "rows", "config", "by", "flops_of")


@dataclass(eq=False)
class Wanted:
    """An artifact that a configuration wants.

    run: the first run that wants it. place: its file or folder in its entry. keys: those of the
    configuration that it depends on. sources: the artifacts that it is made from, by input; `needs`
    are read too, but their content is in the recipe. files: those of the user that the step reads.
    flags: of its command, besides the options of its recipe. names: in the results folder.
    """

    recipe: Recipe
    run: "Wants" = field(repr=False)
    entry: Path
    file: str
    keys: frozenset[str] = frozenset()
    sources: dict[str, "Wanted"] = field(default_factory=dict)
    needs: dict[str, "Wanted"] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    flags: dict[str, object] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    @property
    def rule(self) -> str:
        """The rule and the step that make it."""
        return self.recipe.step

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
    def inputs(self) -> dict[str, list[str]]:
        """The entries and files that its job reads, by their names in the rule."""
        found = {name: list(paths) for name, paths in self.files.items()}
        for name, source in (self.sources | self.needs).items():
            found.setdefault(name.partition(" ")[0], []).append(str(source.entry))
        return found

    @property
    def options(self) -> dict[str, object]:
        """The flags of its command, other than those of its rule."""
        own = {key.rpartition(".")[2]: value for key, value in self.recipe.options.items()}
        return {name: own[name] for name in own if name not in NO_FLAGS} | self.flags

    def chain(self) -> Iterator["Wanted"]:
        """The artifact and all that it is directly or indirectly made from, each once, in order."""
        seen: dict[Wanted, None] = {}

        def visit(wanted: Wanted) -> None:
            if wanted not in seen:
                for source in (wanted.sources | wanted.needs).values():
                    visit(source)
                seen[wanted] = None

        visit(self)
        yield from seen


@dataclass
class Shared:
    """What the runs of a configuration share.

    found: their artifacts by digest.
    """

    store: Store
    contents: FileContents
    version_of: Callable[[str], int | str]
    found: dict[str, Wanted] = field(default_factory=dict)

    def artifact(
        self,
        run: "Wants",
        step: str,
        options: dict[str, object],
        sources: dict[str, Wanted],
        contents: Mapping[str, str] = {},
        **about,
    ) -> Wanted:
        """The artifact of a recipe, the same one whoever asks.

        options, sources and contents: what the recipe holds. about: the other fields of `Wanted`.
        """
        inputs = {name: source.digest for name, source in sources.items()} | contents
        recipe = Recipe(step, self.version_of(step), options, inputs)
        entry = self.store.entry(step, recipe.digest)
        made = Wanted(recipe, run, entry, sources=sources, **about)
        return self.found.setdefault(recipe.digest, made)
