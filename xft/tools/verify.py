"""Check artifacts against their manifests, and against the artifacts that they were made from.

The check compares names, sizes, the hashes of files up to 64 MiB and the headers of larger
safetensors; with --full, the hashes of all files. It looks for the inputs of an artifact in PATH...
and in the artifact's results folder. An input that is in neither is shown, and is not an error.
"""

import json
import os
import sys
import textwrap
from pathlib import Path

from xft.artifacts.lineage import (
    Catalogue,
    Origin,
    absolute,
    find_artifacts,
    find_orphans,
)
from xft.artifacts.manifest import Manifest, find_faults, short
from xft.cli import flags, running
from xft.common.errors import UserError
from xft.config.sections import effective

LINE_LENGTH = 100
# Parameters that differ between artifacts of one kind. The manifests hold all parameters.
SHOWN = (
    *("model", "revision", "num_experts", "num_experts_per_tok", "shared_expert", "router"),
    *("normalize_routing", "upcycled_layers", "experts", "rank", "lora_alpha", "train_rest"),
    *("shared_expert_weight", "granularity"),
    *("learn_lambda", "init", "num_train_epochs", "max_steps", "flops_ratio", "learning_rate"),
    *("limit", "prompt", "seed", "release"),
)


def main(argv: list[str] | None = None) -> None:
    parser = flags.tool_parser("verify", __doc__)
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="An artifact, or a folder with artifacts.",
    )
    parser.add_argument("--full", action="store_true", help="Compare the hashes of all files.")
    args = parser.parse_args(argv)
    artifacts, faults = _find_all(args.paths)
    catalogue = Catalogue(artifacts)
    for artifact in artifacts:
        faults += _check(artifact, catalogue, args.full)
    if faults:
        raise UserError("; ".join(faults))
    print(f"{len(artifacts)} of {len(artifacts)} artifacts fit their manifests", file=sys.stderr)


def _find_all(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """All artifacts, each once, and the faults of the paths."""
    artifacts, faults = {}, []
    for path in paths:
        try:
            found = find_artifacts(path)
        except UserError as error:
            faults.append(str(error))
            continue
        artifacts |= {absolute(artifact): artifact for artifact in found}
        if found != [path]:
            for orphan in find_orphans(path, found):
                faults.append(f"{orphan} has no manifest: nothing says what it is")
                print(f"{orphan}: no manifest")
    return list(artifacts.values()), faults


def _check(artifact: Path, catalogue: Catalogue, full: bool) -> list[str]:
    """Print an artifact with its origins. Returns its faults, one sentence for each."""
    try:
        manifest = catalogue.manifest(artifact)
    except UserError as error:
        print(f"{artifact}: {error}")
        return [str(error)]
    origins = catalogue.origins(artifact)
    faults = _content_faults(artifact, manifest, full)
    faults += [_stale(artifact, origin, catalogue) for origin in origins if origin.successor]
    print(f"{artifact}: {manifest.kind} {short(manifest.id)}{'' if faults else ', fits'}")
    for line in [_parameters(manifest.parameters), *map(_describe, origins)]:
        _print_indented(line)
    for fault in faults:
        _print_indented(f"! {fault}")
    return faults


def _content_faults(artifact: Path, manifest: Manifest, full: bool) -> list[str]:
    if not artifact.exists():
        return [f"{artifact} is missing, but its manifest is there"]
    try:
        return find_faults(artifact, manifest, full)
    except OSError as error:
        return [f"{error.filename}: {error.strerror}"]


def _stale(artifact: Path, origin: Origin, catalogue: Catalogue) -> str:
    now = short(catalogue.manifest(origin.successor).id)
    return (
        f"{artifact} was made from {origin.name} {short(origin.id)}, "
        f"but {_readable(origin.successor)} is now {now}"
    )


def _describe(origin: Origin) -> str:
    """One line about an origin: its name, its id, and its place if that is known."""
    text = f"from {origin.name} {short(origin.id)}"
    if origin.place:
        return f"{text}, {_readable(origin.place)}"
    return f"{text}, which is not here" if origin.is_artifact else f"{text}, a file"


def _parameters(parameters: dict) -> str:
    """One line with the parameters in SHOWN that are set."""
    chosen = effective({name: parameters.get(name) for name in SHOWN})
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return ", ".join(f"{name} {_plain(value)}" for name, value in chosen.items())


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _readable(place: Path) -> Path:
    """An absolute path, relative to the working directory if it lies in it."""
    here = Path.cwd()
    return Path(os.path.relpath(place)) if place.is_relative_to(here) else place


def _print_indented(text: str) -> None:
    indent = "    "
    for line in textwrap.wrap(
        text,
        LINE_LENGTH,
        initial_indent=indent,
        subsequent_indent=2 * indent,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        print(line)


if __name__ == "__main__":
    running.run("verify", main)
