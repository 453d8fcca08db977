"""Upload what a bucket lacks of the artifacts of a results folder, or holds only in part.

The tables, the report, links to your own files, and merges that are not kept, stay here: each
machine makes them. docs/sharing.md has an example.
"""

from xft.cli.step import StepParser
from xft.common.errors import UserError, counted
from xft.common.results_folder import CONFIG_FILE
from xft.config.section import check_store
from xft.estimates.planning import disk_text
from xft.store import others
from xft.tools.status import configured_run


def main(argv: list[str] | None = None) -> None:
    args = arguments(StepParser("xft push", __doc__)).parse_args(argv)
    check_url(args.url)
    run, _ = configured_run(args)
    sizes = others.unpublished(args.url, run.experiment.known, looks=True)
    show({node.name: size for node, size in sizes.items()}, "To upload")
    damaged = {node: 0 for node, size in sizes.items() if not size}  # which nothing is uploaded of
    others.push(args.url, damaged if args.dry_run else sizes)


def arguments(parser: StepParser) -> StepParser:
    """A parser with the arguments of push and pull."""
    parser.path("results", "RESULTS", "The results_dir of a run.")
    parser.add_argument("url", metavar="URL", help="The bucket, such as s3://bucket/folder.")
    parser.configs(f"The configuration, by default RESULTS/{CONFIG_FILE}", required=False)
    parser.add_argument("--dry-run", action="store_true", help="Only list the artifacts.")
    return parser


def check_url(url: str) -> None:
    """Raise UserError if a bucket's URL is wrong, or needs a package that is missing."""
    try:
        check_store(url)
    except ValueError as error:
        raise UserError(f"URL {error}") from None
    others.check([url])


def show(sizes: dict[str, int], title: str) -> None:
    """Print artifacts with their sizes, and their sum."""
    for name, size in sizes.items():
        print(f"{name}  {disk_text(size)}")
    print(f"{title}: {counted(len(sizes), 'artifact')}, {disk_text(sum(sizes.values()))}")
