"""Upload a dense model with its card to the hub.

Without --yes the command only shows what it would upload. The model must be a dense, heal or sft
artifact, and all its files must match the hashes in its manifest. The token comes from HF_TOKEN or
from the hub's own login.
"""

import shlex

from xft.artifacts.artifact import Artifact
from xft.artifacts.manifest import short
from xft.cli import flags
from xft.hub.publishing import CARD, open_publishable, publish

CARD_LINES = 12


def main(argv: list[str] | None = None) -> None:
    parser = flags.StepParser("xft publish", __doc__)
    parser.path("--model", "DIR", "The artifact.")
    parser.add_argument(
        "--to", required=True, metavar="ORG/NAME", help="The repository on the hub."
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="Make the repository private. It must not be public already.",
    )
    parser.add_argument("--yes", action="store_true", help="Upload the model.")
    args = parser.parse_args(argv)

    artifact = open_publishable(args.model, args.to)
    print(describe(artifact, args.to, args.private))
    if not args.yes:
        words = ["--model", str(args.model), "--to", args.to, *["--private"] * args.private]
        command = shlex.join(["xft", "publish", *words, "--yes"])
        print(f"\nNothing was uploaded. To upload the model, run:\n{command}")
        return
    address, besides = publish(artifact, args.to, args.private)
    print(f"\nUploaded. The hub lists all files with the hashes of the manifest: {address}")
    if besides:
        print(f"The repository also holds files that are not from this model: {', '.join(besides)}")


def describe(artifact: Artifact, repository: str, private: bool) -> str:
    """The text that shows the files to upload and the repository."""
    manifest = artifact.manifest
    size = sum(entry["size"] for entry in manifest.files.values())
    card = (artifact.path / CARD).read_text(encoding="utf-8")
    return "\n".join(
        [
            f"repository: {repository} ({'private' if private else 'public, if it is new'})",
            f"model: {artifact.path}, {manifest.kind} {short(manifest.id)}",
            f"files: {len(manifest.files)}, {size:,} bytes",
            *(f"  {entry['size']:>15,}  {name}" for name, entry in sorted(manifest.files.items())),
            "card:",
            *(f"  {line}".rstrip() for line in card.splitlines()[:CARD_LINES]),
        ]
    )
