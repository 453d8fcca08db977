"""Check artifacts against their manifests: names and sizes, with --full the hashes too."""

import sys
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.checkpoints.manifest import find_faults, manifest_path, read_manifest
from workflow_scripts.errors import UserError

MANIFEST_SUFFIX = ".manifest.json"


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("verify", __doc__)
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="An artifact, or a folder of artifacts."
    )
    parser.add_argument("--full", action="store_true", help="Compare the hashes of all files.")
    args = parser.parse_args(argv)
    artifacts = [artifact for path in args.paths for artifact in find_artifacts(path)]
    faults = [fault for artifact in artifacts for fault in _check(artifact, args.full)]
    if faults:
        raise UserError("; ".join(faults))
    print(f"{len(artifacts)} of {len(artifacts)} artifacts fit their manifests", file=sys.stderr)


def find_artifacts(path: Path) -> list[Path]:
    """The artifact at `path`, or all artifacts below it. Raises UserError where there is none."""
    if manifest_path(path).exists():
        return [path]
    manifests = sorted(path.rglob(f"*{MANIFEST_SUFFIX}"))
    if not manifests:
        raise UserError(f"{path}: no manifest beside it and none below it")
    return [m.with_name(m.name.removesuffix(MANIFEST_SUFFIX)) for m in manifests]


def _check(artifact: Path, full: bool) -> list[str]:
    if not artifact.exists():
        return [f"{artifact} is missing, but its manifest is there"]
    manifest = read_manifest(manifest_path(artifact))
    faults = find_faults(artifact, manifest, full)
    print(f"{artifact}: {manifest.kind} {manifest.id[:12]}, {'; '.join(faults) or 'fits'}")
    return faults


if __name__ == "__main__":
    cli.run("verify", main)
