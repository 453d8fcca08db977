"""Check artifacts against their manifests, and show what they were made from.

The check compares names, sizes, the hashes of files up to 64 MiB and the headers of larger
safetensors; with --full, the hashes of all files. Artifacts that others were made from are found by
their ids, in PATH... and in the folders above it up to this one. `xft status` shows what was made
from another input than the current one.
"""

import sys
from pathlib import Path

from xft.artifacts.lineage import Catalogue, absolute, find_artifacts, find_orphans
from xft.artifacts.manifest import find_faults, manifest_path, read_manifest, short
from xft.cli import flags, running
from xft.common.errors import UserError
from xft.store.names import place_of


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
    """Print an artifact with its inputs. Returns its faults, one sentence for each."""
    try:
        manifest = read_manifest(manifest_path(artifact))
        if artifact.exists():
            faults = find_faults(place_of(artifact), manifest, full)
        else:
            faults = [f"{artifact} is missing, but its manifest is there"]
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else f"{error.filename}: {error.strerror}"
        print(f"{artifact}: {told}")
        return [str(told)]
    print(f"{artifact}: {manifest.kind} {short(manifest.id)}{'' if faults else ', fits'}")
    for name, identity in sorted(manifest.inputs.items()):
        place = catalogue.find(identity, near=artifact)
        print(f"    from {name} {short(identity)}{f', {_readable(place)}' if place else ''}")
    for fault in faults:
        print(f"    ! {fault}")
    return faults


def _readable(place: Path) -> Path:
    """An absolute path, relative to the working directory if it lies in it."""
    here = Path.cwd()
    return place.relative_to(here) if place.is_relative_to(here) else place


if __name__ == "__main__":
    running.run("verify", main)
