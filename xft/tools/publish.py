"""Upload a dense model with its card to the hub.

Without --yes the command only shows what it would upload. The model must be a dense, heal or sft
artifact, and all its files must match the hashes in its manifest. The token comes from HF_TOKEN or
from the hub's own login.
"""

import shlex

from xft.artifacts.manifest import short
from xft.cli import flags, running
from xft.hub.publishing import Publication, prepare, publish

CARD_LINES = 12


def main(argv: list[str] | None = None) -> None:
    parser = flags.tool_parser("publish", __doc__)
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

    publication = prepare(args.model, args.to, args.private)
    print(describe(publication))
    if not args.yes:
        words = ["--model", str(args.model), "--to", args.to, *["--private"] * args.private]
        command = shlex.join(["xft", "publish", *words, "--yes"])
        print(f"\nNothing was uploaded. To upload the model, run:\n{command}")
        return
    address, besides = publish(publication)
    print(f"\nUploaded. The hub lists all files with the hashes of the manifest: {address}")
    if besides:
        print(f"The repository also holds files that are not from this model: {', '.join(besides)}")


def describe(publication: Publication) -> str:
    """The text that shows the files to upload and the repository."""
    files, manifest = publication.files, publication.artifact.manifest
    size = sum(entry["size"] for entry in files.values())
    visibility = "private" if publication.private else "public, if it is new"
    head = publication.card.splitlines()[:CARD_LINES]
    return "\n".join(
        [
            f"repository: {publication.repository} ({visibility})",
            f"model: {publication.artifact.path}, {manifest.kind} {short(manifest.id)}",
            f"files: {len(files)}, {size:,} bytes",
            *(f"  {entry['size']:>15,}  {name}" for name, entry in sorted(files.items())),
            "card:",
            *(f"  {line}".rstrip() for line in head),
        ]
    )


if __name__ == "__main__":
    running.run("publish", main)
