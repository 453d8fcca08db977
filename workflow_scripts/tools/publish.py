"""Upload a dense model with its card to the hub. Without --yes: say what would be done.

The model must be a dense or sft artifact that fits its manifest in every byte. The token is that of
HF_TOKEN, or of the hub's own login.
"""

import shlex

from workflow_scripts.artifacts.manifest import short
from workflow_scripts.cli import flags, running
from workflow_scripts.hub.publishing import Publication, prepare, publish

CARD_LINES = 12


def main(argv: list[str] | None = None) -> None:
    parser = flags.tool_parser("publish", __doc__)
    flags.add_path(parser, "--model", "DIR", "The artifact.")
    parser.add_argument("--to", required=True, metavar="ORG/NAME", help="The repository.")
    parser.add_argument(
        "--private", action="store_true", help="Nobody else may see it. It must not be public yet."
    )
    parser.add_argument("--yes", action="store_true", help="Do it.")
    args = parser.parse_args(argv)

    publication = prepare(args.model, args.to, args.private)
    print(describe(publication))
    if not args.yes:
        words = ["--model", str(args.model), "--to", args.to, *["--private"] * args.private]
        command = shlex.join(["xft", "publish", *words, "--yes"])
        print(f"\nNothing was uploaded. To do it:\n{command}")
        return
    address, besides = publish(publication)
    print(f"\nThe hub lists all files with the manifest's hashes: {address}")
    if besides:
        print(f"Not of this model, and there from earlier: {', '.join(besides)}")


def describe(publication: Publication) -> str:
    """What is to be uploaded, and where to."""
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
