"""A step: its command line, the inputs that it opens, and the artifact that it makes."""

from contextlib import AbstractContextManager
from pathlib import Path

from xft.artifacts.artifact import Draft, OpenedArtifact, create_artifact, open_artifact
from xft.cli import flags
from xft.cli.running import run as run
from xft.config.section import keys
from xft.config.steps import STEPS
from xft.config.validation import SectionType, validated


class Step(flags.StepParser):
    """The parser of `python -m workflow_scripts.<name>`, and what the parsed flags stand for.

    The keys that `config.steps` names for the step are flags from the beginning.

    args: the parsed flags.
    inputs: what the artifact is made from, by the names in its manifest: artifacts, or hashes of
    files.
    """

    def __init__(self, name: str, description: str):
        super().__init__(f"python -m workflow_scripts.{name}", description)
        self.name = name
        self.inputs: dict[str, OpenedArtifact | str] = {}
        for _, section, names in STEPS[name].sections:
            self.add_options(section, names)

    def parse_args(self, args=None, namespace=None):
        """Parse the arguments. Raises UserError as `StepParser` does."""
        self.args = super().parse_args(args, namespace)
        return self.args

    @property
    def full(self) -> bool:
        """Whether the step compares all of its inputs with their manifests."""
        return self.args.verify == "full"

    def options(self, section: type[SectionType]) -> SectionType:
        """An object of a class of the configuration, from its flags that this step has.

        Keys without a flag have their defaults. Raises UserError if a value is wrong.
        """
        values = {key: value for key, value in vars(self.args).items() if key in keys(section)}
        return validated(section, values, "command line")

    def open(self, name: str, path: Path, *kinds: str) -> OpenedArtifact:
        """Open an artifact as the input `name`. Raises UserError as `open_artifact` does."""
        artifact = open_artifact(path, *kinds, full=self.full)
        self.inputs[name] = artifact
        return artifact

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the inputs, for the manifest."""
        return {
            name: source if isinstance(source, str) else source.id
            for name, source in self.inputs.items()
        }

    def draft(self, parameters: dict | None = None) -> AbstractContextManager[Draft]:
        """The artifact at --out to fill, as `create_artifact` gives it."""
        return create_artifact(self.args.out, self.name, parameters, self.ids)
