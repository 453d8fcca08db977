"""Fetch a file of instruction rows from a data set on the hub, at a pinned revision.

The file lies in the hub's own cache; --out is a link to it.
"""

from workflow_scripts import cli
from workflow_scripts.checkpoints.source import fetch_dataset_file


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("fetch_data", __doc__)
    parser.add_argument(
        "--train", required=True, metavar="ORG/NAME/FILE", help="A file of a data set on the hub."
    )
    cli.add_path(parser, "--out", "FILE", "The link.")
    cli.add_options(parser, "data", ["revision"])
    args = parser.parse_args(argv)
    revision = cli.options(args, "data", ["revision"])["revision"]

    file = fetch_dataset_file(args.train, revision)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(file.resolve())
    temporary.replace(args.out)


if __name__ == "__main__":
    cli.run("fetch_data", main)
