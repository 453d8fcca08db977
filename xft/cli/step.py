"""A step: its command line, the inputs that it opens, and the artifact that it makes.

Flags are paths, and keys of the configuration. The tools have the same parser.
"""

import argparse
import shlex
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from xft.artifacts import artifact
from xft.artifacts.artifact import Draft, OpenedArtifact, create_artifact, open_artifact
from xft.cli.running import run as run
from xft.common.errors import UserError
from xft.config.reading import SectionType, validated
from xft.config.section import Section, keys, meaning, schemas
from xft.config.steps import STEPS

OPTIONS = "options of the configuration"
TYPES = {"string": str, "integer": int, "number": float}  # by their names in JSON schema
PATHS = {"path": False, "file-path": True}  # formats of strings: whether a folder is not meant


class StepParser(argparse.ArgumentParser):
    """A parser that refuses outputs that would overwrite inputs.

    reads, writes: the flags of paths that are read or written. The value tells whether a folder may
        be shared: it may hold inputs and outputs, if their files differ.
    """

    def __init__(self, prog: str, description: str):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=form)
        self.reads: dict[str, bool] = {}
        self.writes: dict[str, bool] = {}

    def parse_args(self, args=None, namespace=None):
        """Parse the arguments. Raises UserError as `check_apart` does, or if --out exists."""
        parsed = super().parse_args(args, namespace)
        given = vars(parsed)
        for name, is_shared in self.writes.items():
            place = given[name]
            if place is None:
                continue
            # A new file in a shared folder has a name of its own.
            written = place / name if is_shared else place
            check_apart(f"{_flag(name)} {place}", written, self._sources(given))
        out = given.get("out")
        if out is not None and out.is_dir():
            artifact.check_no_artifact(out)
        return parsed

    def _sources(self, given: dict) -> Iterator[tuple[str, Path]]:
        """The inputs that exist on this disk, each with the key of its flag."""
        for name, is_shared in self.reads.items():
            values = given[name] or []
            for value in values if isinstance(values, list) else [values]:
                path = Path(value)
                if path.is_file() or (path.is_dir() and not is_shared):
                    yield name, path

    def path(
        self,
        name: str,
        kind: str,
        meaning: str,
        required: bool = True,
        shared: bool = False,
        **settings,
    ) -> None:
        """Add an argument for a path that is read, as `_add_path` says.

        shared: whether a folder there may hold inputs and outputs.
        """
        key = self._add_path(name, kind, meaning, required, settings)
        self.reads[key] = shared

    def output(
        self,
        flag: str,
        kind: str,
        meaning: str,
        required: bool = True,
        shared: bool = False,
        **settings,
    ) -> None:
        """Add a flag for a path that is written, as `_add_path` says.

        shared: whether a folder there may hold inputs and outputs.
        """
        key = self._add_path(flag, kind, meaning, required, settings)
        self.writes[key] = shared

    def _add_path(
        self, name: str, kind: str, meaning: str, required: bool, settings: dict[str, object]
    ) -> str:
        """Add an argument for a path. Returns its key among the parsed arguments.

        name: of the flag, or of an argument without one.
        kind: DIR or FILE.
        settings: further ones of `add_argument`.
        """
        settings |= {"type": Path, "metavar": kind, "help": meaning}
        if name.startswith("-"):
            settings["required"] = required
        return self.add_argument(name, **settings).dest

    def artifact(self, flag: str, meaning: str, required: bool = True, **settings) -> None:
        """Add a flag for the folder of an input, and --verify: how thoroughly it is checked."""
        self.path(flag, "DIR", meaning, required, **settings)
        if "--verify" not in self._option_string_actions:
            self.add_argument(
                "--verify",
                choices=["quick", "full"],
                default="quick",
                help="How the step checks its inputs before it begins. quick: names, sizes, files "
                "up to 64 MiB, and the headers of larger ones. full: all of each file. Default: "
                "quick.",
            )

    def name_or_file(self, flag: str, meaning: str, **settings) -> None:
        """Add a flag for a name or a file. A folder with the name is not meant."""
        added = self.add_argument(flag, metavar="NAME_OR_FILE", help=meaning, **settings)
        self.reads[added.dest] = True

    def dataset(self) -> None:
        """Add --dataset: a set of evaluation problems."""
        problems = "humaneval, mbpp, or a file in HumanEval+ form (.jsonl or .jsonl.gz)"
        self.name_or_file("--dataset", f"The problems: {problems}.", required=True)

    def configs(self, meaning: str, required: bool) -> None:
        """Add --config: files that `config.runs.read_overlaid` takes."""
        overlaid = "YAML files, each merged on top of those before, as for snakemake."
        self.path("--config", "FILE", f"{meaning}: {overlaid}", required, nargs="+")

    def add_options(self, section: type[Section], names: Iterable[str] | None = None) -> None:
        """Add a flag for each named key (default: all) of a class of the configuration.

        The class gives the flag its type, its default, its choices and its help.
        """
        groups = {group.title: group for group in self._action_groups}
        group = groups.get(OPTIONS) or self.add_argument_group(OPTIONS)
        for name in names or keys(section):
            schema = _add_option(group, section, name)
            if schema.get("format") in PATHS:
                self.reads[name] = PATHS[schema["format"]]


def check_apart(output: str, written: Path, read: Iterable[tuple[str, Path]]) -> None:
    """Raise UserError if the path `written` overlaps an input, also through links.

    output: its flag with its value.
    read: keys of the flags of inputs, each with a path.
    """
    for name, source in read:
        if artifact.overlap(written, source):
            raise UserError(
                f"{output} overlaps {_flag(name)} {source}, which the step reads. Choose another "
                "place"
            )


def _add_option(group, section: type[Section], name: str) -> dict:
    """Add the flag of a key. Returns the JSON schema of its value, or of each one of a list."""
    field = section.model_fields[name]
    forms = schemas(section, name)
    schema = next((form for form in forms if form["type"] == "array"), forms[0])
    required = field.is_required()
    default = None if required else field.get_default()
    text = meaning(section, name)
    if default not in (None, []):
        text += f" Default: {default}."
    settings = {"help": text.replace("%", "%%"), "required": required, "default": default}
    if schema["type"] == "boolean":
        settings["action"] = argparse.BooleanOptionalAction
    else:
        if schema["type"] == "array":
            settings["nargs"] = "+"
            schema = schema["items"]
        choices = schema.get("enum")
        settings["type"] = TYPES[schema["type"]]
        settings["choices"] = choices
        settings["metavar"] = None if choices else schema["type"].upper()
    group.add_argument(_flag(name), **settings)
    return schema


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def to_flags(values: dict) -> str:
    """The command line that sets `values`: the inverse of `Step.options`.

    None and empty lists are left out.
    """
    words = []
    for name, value in values.items():
        if value is True:
            words.append(_flag(name))
        elif value is False:
            words.append("--no-" + _flag(name).removeprefix("--"))
        elif isinstance(value, list):
            if value:
                words += [_flag(name), *map(str, value)]
        elif value is not None:
            words.append(f"{_flag(name)}={value}")
    return shlex.join(words)


class Step(StepParser):
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
        self.inputs[name] = opened = open_artifact(path, *kinds, full=self.full)
        return opened

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
