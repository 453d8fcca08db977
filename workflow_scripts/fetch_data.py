"""Fetch instruction rows from the hub, at a pinned revision.

A file of a data set lies in the hub's own cache; --out is a link to it. A data set that is named
without a file is read by `datasets`, and --out is a Parquet file. A manifest is written beside it.
"""

from workflow_scripts import cli
from workflow_scripts.artifacts.files import write_manifest
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.hub.source import dataset_source, fetch_dataset, fetch_dataset_file

OPTIONS = ["revision", "split"]


def main(argv: list[str] | None = None) -> None:
    parser = cli.step_parser("fetch_data", __doc__)
    parser.add_argument(
        "--train",
        required=True,
        metavar="ORG/NAME[/FILE]",
        help="A data set on the hub, or a file of one.",
    )
    cli.add_path(parser, "--out", "FILE", "The rows.")
    cli.add_options(parser, "data", OPTIONS)
    args = parser.parse_args(argv)
    options = cli.options(args, "data", OPTIONS)
    source = dataset_source(args.train, options["revision"])

    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    temporary.unlink(missing_ok=True)
    if source.file:
        temporary.symlink_to(fetch_dataset_file(source).resolve())
    else:
        fetch_dataset(source, options["split"], temporary)
    temporary.replace(args.out)
    parameters = {"train": args.train} | options
    if source.file:
        del parameters["split"]
    recipe = make_recipe("fetch_data", parameters, {})
    write_manifest(args.out, "data", parameters, recipe=recipe)


if __name__ == "__main__":
    cli.run("fetch_data", main)
