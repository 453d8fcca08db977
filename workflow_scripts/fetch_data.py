"""Fetch instruction rows from the hub, at a pinned revision.

If the data set is named with a file, --out is a link to that file in the hub's own cache. If it is
named without a file, `datasets` reads it, and --out is a Parquet file. A manifest is written beside
--out.
"""

from xft.artifacts.manifest import write_manifest
from xft.cli.step import Step, run
from xft.config.sections import RowsSource
from xft.hub.source import dataset_source, fetch_dataset, fetch_file


def main(argv: list[str] | None = None) -> None:
    step = Step("fetch_data", __doc__)
    step.output("--out", "FILE", "The rows.")
    args = step.parse_args(argv)
    rows = step.options(RowsSource)
    source = dataset_source(rows.train, rows.revision)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    temporary.unlink(missing_ok=True)
    if source.file:
        file = fetch_file(source.repository, source.revision, source.file, "dataset")
        temporary.symlink_to(file.resolve())
    else:
        fetch_dataset(source, rows.split, temporary)
    temporary.replace(args.out)
    known = rows.model_dump(exclude={"split"} if source.file else None)
    write_manifest(args.out, "data", known | {"datasets": [source.repository]})


if __name__ == "__main__":
    run("fetch_data", main)
