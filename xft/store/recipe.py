"""The recipe of an artifact: everything that determines its content."""

from dataclasses import asdict, dataclass
from functools import cached_property

from xft.artifacts.manifest import json_sha256

DIGITS = 16


@dataclass(frozen=True)
class Recipe:
    """What a step makes its artifact from.

    version: of the step's code, as `Code.version_of` gives it. options: values that are not the
    defaults, by their key in the configuration, such as "moe.num_experts". inputs: for each name
    the digest of an artifact's recipe, or the hash of a file.
    """

    step: str
    version: int | str
    options: dict[str, object]
    inputs: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """The first 16 digits of SHA-256 over the recipe, and so over the recipes of its inputs."""
        return json_sha256(asdict(self))[:DIGITS]
