"""Check artifacts against their manifests, and show what they were made from.

The check compares names, sizes, the hashes of files up to 64 MiB and the headers of larger
safetensors; with --full, the hashes of all files, also of those beside the artifacts of a store.
Inputs are found by their ids among the artifacts that are checked. What an artifact was made from
and its store no longer holds is told, but is no fault: each artifact is complete by itself.
"""

import sys
from pathlib import Path

from xft.artifacts.artifact import OpenedArtifact
from xft.artifacts.manifest import MANIFEST_SUFFIX, find_faults, manifest_path, read_manifest, short
from xft.cli.step import StepParser
from xft.common.errors import UserError, collecting_errors
from xft.store.store import MARK, Store, entry_faults, is_whole, lost_inputs


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft verify", __doc__)
    paths = "An artifact, or a folder with artifacts, such as store."
    parser.path("paths", "PATH", paths, nargs="+")
    parser.add_argument("--full", action="store_true", help="Compare the hashes of all files.")
    args = parser.parse_args(argv)
    faults: list[str] = []
    opened: dict[Path, OpenedArtifact] = {}
    places_to_check = [place for path in args.paths for place in _find_places(path)]
    for place in places_to_check:
        artifacts = _find_artifacts(place)
        if not artifacts:
            faults.append(f"{place}: no manifest beside it and none below it")
        for artifact in artifacts:
            with collecting_errors(faults):
                manifest = read_manifest(manifest_path(artifact))
                opened[artifact] = OpenedArtifact(artifact, manifest)
    if args.full:  # what entries of a store hold beside their artifacts
        for entry in sorted({artifact.parent for artifact in opened}):
            if is_whole(entry):
                with collecting_errors(faults):
                    faults += entry_faults(entry)
    places = {artifact.id: place for place, artifact in opened.items()}
    for artifact in opened.values():
        faults += _check(artifact, places, args.full)
    for digest, users in lost_inputs(artifact.parent for artifact in opened).items():
        (entry, name), *others = users.items()
        more = f" and {len(others)} more" if others else ""
        print(f"{digest}, the {name} of {entry}{more}, is no longer in the store")
    if faults:
        raise UserError("; ".join(faults))
    print(f"{len(opened)} of {len(opened)} artifacts fit their manifests", file=sys.stderr)


def _find_places(path: Path) -> list[Path]:
    """The finished entries of a store, also links to other stores. If it is no store, the path."""
    if not (path / MARK).is_file():
        return [path]
    entries = [entry for entry in Store(path).entries() if not entry.suffix]
    return entries or [path]


def _find_artifacts(path: Path) -> list[Path]:
    """The artifact at `path`, or all artifacts below it."""
    if manifest_path(path).exists():
        return [path]
    manifests = sorted(path.rglob(f"*{MANIFEST_SUFFIX}"))
    return [file.with_name(file.name.removesuffix(MANIFEST_SUFFIX)) for file in manifests]


def _check(artifact: OpenedArtifact, places: dict[str, Path], full: bool) -> list[str]:
    """Print an artifact with its inputs. Returns its faults, one sentence for each.

    places: artifacts by their ids.
    """
    path = artifact.path
    manifest = artifact.manifest
    if not path.exists():
        return [f"{path} is missing, but its manifest is there"]
    faults = find_faults(path, manifest, full)
    print(f"{path}: {manifest.kind} {short(manifest.id)}{'' if faults else ', fits'}")
    for name, identity in sorted(manifest.inputs.items()):
        place = f", {places[identity]}" if identity in places else ""
        print(f"    from {name} {short(identity)}{place}")
    if faults and manifest.kind == "base" and not manifest.parameters:  # of a local model
        faults.append(
            f"{path} links to your own model. If you changed it, the next snakemake run makes "
            "a new base of it by itself, and xft gc then removes this one"
        )
    for fault in faults:
        print(f"    ! {fault}")
    return faults
