"""Makes the recipe of a step's artifact from the step's flags and inputs."""

from collections.abc import Mapping

from xft.artifacts.artifact import Artifact
from xft.artifacts.code import code_hashes
from xft.artifacts.manifest import Recipe
from xft.config.step_keys import keys_of_step


def make_recipe(step: str, options: Mapping, inputs: Mapping[str, Artifact | str]) -> Recipe:
    """The recipe of the artifact that a step makes from these inputs.

    options: by flag; those that `config.reads` does not name for the step are left out.
    inputs: artifacts, or hashes of files.
    """
    origins = {
        name: source if isinstance(source, str) else source.manifest.origin
        for name, source in inputs.items()
    }
    named = {key: options[flag] for flag, key in keys_of_step(step).items() if flag in options}
    return Recipe(step, named, origins, code_hashes(step))


def problem_input(label: str) -> str:
    """The name, in the recipe of tokens, of a problem set that the rows were compared with."""
    return f"problems {label}"
