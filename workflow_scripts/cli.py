"""What all steps' command lines share: flags from the schema, and errors without a stack trace."""

import argparse
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from workflow_scripts import configuration
from workflow_scripts.artifacts.artifact import clear_up_after_killed, replacing_fault
from workflow_scripts.artifacts.overlap import overlap
from workflow_scripts.common import progress
from workflow_scripts.common.errors import UserError

# The flags of all steps that name what is read, and what is written.
INPUT_FLAGS = (
    *("base", "model", "moe", "ffn", "weighted", "data"),
    *("evals", "losses", "general"),
)
NAME_OR_FILE_FLAGS = ("dataset", "problems", "prompt", "template", "tasks")
OUTPUT_FLAGS = ("out", "metrics", "report")
FLAG_TYPES = {"integer": int, "number": float, "string": str}
ENVIRONMENT = {
    # Threads that wait in a loop for the next operation stall each other on a shared machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Kernels that oneDNN, and torch's layer on it, keep on a CPU in bf16: one for each number of
    # tokens that an expert met. The default of 1024 takes up to 570 MB, and saves 6% of time at
    # most (docs/planning.md).
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
# What the user can put right: a full disk, missing rights, a file that has gone meanwhile.
USER_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


class StepParser(argparse.ArgumentParser):
    """A parser that refuses to write over what is read."""

    def parse_args(self, args=None, namespace=None):
        """Parse. Raises UserError where an output is, holds or lies in one of the inputs, or stands
        where something is that no step made.
        """
        parsed = super().parse_args(args, namespace)
        check_outputs(vars(parsed))
        if out := vars(parsed).get("out"):
            progress.name_output(Path(out))
        return parsed


def step_parser(step: str, description: str) -> StepParser:
    """The parser of `python -m workflow_scripts.<step>`."""
    return StepParser(
        prog=f"python -m workflow_scripts.{step}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def tool_parser(name: str, description: str) -> StepParser:
    """The parser of `xft <name>`."""
    parser = step_parser(name, description)
    parser.prog = f"xft {name}"
    return parser


def add_path(parser, flag: str, kind: str, meaning: str) -> None:
    """Add a required flag that takes a path. `kind` is DIR or FILE."""
    parser.add_argument(flag, type=Path, required=True, metavar=kind, help=meaning)


def add_verify(parser) -> None:
    """Add --verify: how thoroughly the step checks its inputs against their manifests."""
    parser.add_argument(
        "--verify",
        choices=["quick", "full"],
        default="quick",
        help="Check of the inputs before the step begins: names, sizes, headers and small files, "
        "or the hashes of all files. Default: quick.",
    )


def check_outputs(flags: dict) -> None:
    """Raise UserError where an output is, holds or lies in an input, be it through links."""
    for output in OUTPUT_FLAGS:
        for flag, source in _sources(flags):
            if flags.get(output) and overlap(flags[output], source):
                raise UserError(
                    f"{_flag(output)} {flags[output]} is, holds or lies in {_flag(flag)} {source}, "
                    "which the step reads. Choose another place"
                )
    out = flags.get("out")
    if out is not None and out.is_dir():
        clear_up_after_killed(out)
        if fault := replacing_fault(out):
            raise UserError(fault)


def _sources(flags: dict) -> Iterator[tuple[str, Path]]:
    """The inputs that are on this disk, each with the key of its flag."""
    for flag in (*INPUT_FLAGS, *NAME_OR_FILE_FLAGS):
        values = flags.get(flag) or []
        for value in values if isinstance(values, list) else [values]:
            path = Path(value)
            # A folder humaneval is not what --dataset humaneval names.
            if path.is_file() or (path.is_dir() and flag not in NAME_OR_FILE_FLAGS):
                yield flag, path


def add_options(parser, section: str | None, names: Iterable[str] | None = None) -> None:
    """Add a flag for each named key (default: all) of a section of the configuration's schema.

    The schema gives the flag its type, its default, its choices and its help.
    """
    properties = configuration.properties(section)
    group = parser.add_argument_group(f"options of config section {section}" if section else None)
    for name in names or properties:
        _add_option(group, name, properties[name])


def _add_option(group, name: str, subschema: dict) -> None:
    types = subschema["type"] if isinstance(subschema["type"], list) else [subschema["type"]]
    kind = next(t for t in types if t != "null")
    default = subschema.get("default")
    if kind == "number" and default is not None:
        default = float(default)  # as if it had been given
    settings = {"default": default, "help": _help(subschema)}
    if kind == "boolean":
        settings["action"] = argparse.BooleanOptionalAction
    elif kind == "array":
        item = subschema["items"]
        settings |= {"type": FLAG_TYPES[item["type"]], "nargs": "+", "choices": item.get("enum")}
        settings["metavar"] = None if "enum" in item else item["type"].upper()
    else:
        settings |= {"type": FLAG_TYPES[kind], "choices": subschema.get("enum")}
        settings["metavar"] = None if "enum" in subschema else kind.upper()
    group.add_argument(_flag(name), **settings)


def _help(subschema: dict) -> str:
    default = subschema.get("default")
    suffix = "" if default in (None, []) else f" Default: {default}."
    return (subschema["description"] + suffix).replace("%", "%%")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def options(args: argparse.Namespace, section: str | None, names=None) -> dict:
    """The values of a section's flags, checked against the schema. Raises UserError."""
    values = {name: getattr(args, name) for name in names or configuration.properties(section)}
    configuration.check_section(section, values, "command line")
    return values


def to_flags(values: dict) -> str:
    """The command line that sets `values`: the inverse of `options`.

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


def run(step: str, main: Callable[[list[str] | None], None]) -> None:
    """Run a step's main. A user's mistake ends in one message and exit status 1."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    progress.name_job(step)
    try:
        main(None)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        progress.close_bars()  # the message comes last
        sys.exit(f"{step}: error: {message}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def failure(log: str) -> str | None:
    """The message with which a step ended, from its log; None where it did not end with one."""
    found = list(re.finditer(r"^\w+: error: .*", log, re.MULTILINE | re.DOTALL))
    return found[-1][0].rstrip() if found else None


def explain(error: Exception) -> str | None:
    """What to tell the user of an error that is the user's to put right; else None."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRORS:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}. Nothing was changed."
    return None
