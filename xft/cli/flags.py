"""Flags of the steps and tools: paths, and keys of the configuration."""

import argparse
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from xft.artifacts.artifact import check_free
from xft.artifacts.overlap import overlap
from xft.common.errors import UserError
from xft.config.section import Section, keys, meaning, schemas

# The flags of all steps that name inputs and outputs.
INPUT_FLAGS = (
    *("base", "model", "models", "moe", "ffn", "weighted", "teacher", "data", "text", "runs"),
    *("evals", "losses", "ground_truth", "summary", "match_flops", "tokens"),
)
NAME_OR_FILE_FLAGS = ("dataset", "problems", "prompt", "template", "tasks")
OUTPUT_FLAGS = ("out", "metrics", "report")
OPTIONS = "options of the configuration"
TYPES = {"string": str, "integer": int, "number": float}  # by their names in JSON schema


class StepParser(argparse.ArgumentParser):
    """A parser that refuses outputs that would overwrite inputs."""

    def __init__(self, prog: str, description: str):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=form)

    def parse_args(self, args=None, namespace=None):
        """Parse the arguments. Raises UserError as `check_outputs` does."""
        parsed = super().parse_args(args, namespace)
        check_outputs(vars(parsed))
        return parsed

    def path(self, flag: str, kind: str, meaning: str, required: bool = True, **settings) -> None:
        """Add a flag that takes a path. kind: DIR or FILE. settings: of `add_argument`."""
        settings |= {"type": Path, "required": required, "metavar": kind, "help": meaning}
        self.add_argument(flag, **settings)

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

    def dataset(self) -> None:
        """Add --dataset: a set of evaluation problems."""
        self.add_argument(
            "--dataset",
            required=True,
            metavar="NAME_OR_FILE",
            help="The problems: humaneval, mbpp, or a file in HumanEval+ form (.jsonl or "
            ".jsonl.gz).",
        )


def add_configs(parser, meaning: str, required: bool) -> None:
    """Add --config: files that `config.runs.read_overlaid` takes."""
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        required=required,
        metavar="FILE",
        help=f"{meaning}: YAML files, each laid over the one before, as for snakemake's "
        "--configfile.",
    )


def check_outputs(flags: dict) -> None:
    """Raise UserError if an output overlaps an input, also through links, or an artifact exists."""
    for output in OUTPUT_FLAGS:
        for flag, source in _sources(flags):
            if flags.get(output) and overlap(flags[output], source):
                raise UserError(
                    f"{_flag(output)} {flags[output]} overlaps {_flag(flag)} {source}, which the "
                    "step reads. Choose another place"
                )
    out = flags.get("out")
    if out is not None and out.is_dir():
        check_free(out)


def _sources(flags: dict) -> Iterator[tuple[str, Path]]:
    """The inputs that exist on this disk, each with the key of its flag."""
    for flag in (*INPUT_FLAGS, *NAME_OR_FILE_FLAGS):
        values = flags.get(flag) or []
        for value in values if isinstance(values, list) else [values]:
            path = Path(value)
            # --dataset humaneval does not mean a folder of this name.
            if path.is_file() or (path.is_dir() and flag not in NAME_OR_FILE_FLAGS):
                yield flag, path


def add_options(parser, section: type[Section], names: Iterable[str] | None = None) -> None:
    """Add a flag for each named key (default: all) of a class of the configuration.

    The class gives the flag its type, its default, its choices and its help.
    """
    groups = {group.title: group for group in parser._action_groups}
    group = groups.get(OPTIONS) or parser.add_argument_group(OPTIONS)
    for name in names or keys(section):
        _add_option(group, section, name)


def _add_option(group, section: type[Section], name: str) -> None:
    field = section.model_fields[name]
    schema, is_required = schemas(section, name)[0], field.is_required()
    settings = {"help": _help(field, meaning(section, name)), "required": is_required}
    if not is_required:
        settings["default"] = field.get_default()
    if schema["type"] == "boolean":
        settings["action"] = argparse.BooleanOptionalAction
    else:
        if schema["type"] == "array":
            settings["nargs"], schema = "+", schema["items"]
        kind, choices = schema["type"], schema.get("enum")
        settings |= {"type": TYPES[kind], "choices": choices}
        settings["metavar"] = None if choices else kind.upper()
    group.add_argument(_flag(name), **settings)


def _help(field: FieldInfo, text: str) -> str:
    default = None if field.is_required() else field.get_default()
    suffix = "" if default in (None, []) else f" Default: {default}."
    return (text + suffix).replace("%", "%%")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def to_flags(values: dict) -> str:
    """The command line that sets `values`: the inverse of `Step.options`.

    None and empty lists are left out.
    """
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(_flag(name) if value else "--no-" + _flag(name).removeprefix("--"))
        elif isinstance(value, list):
            words += [_flag(name), *map(str, value)] if value else []
        elif value is not None:
            words.append(f"{_flag(name)}={value}")
    return shlex.join(words)
