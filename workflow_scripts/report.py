"""Write the report of a finished run: one HTML file for a browser, without network."""

from collections.abc import Sequence

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.manifest import manifest_path, read_manifest
from workflow_scripts.artifacts.recipe import make_recipe
from workflow_scripts.cli import flags, running
from workflow_scripts.reporting.page.folder import read_results
from workflow_scripts.reporting.page.html import build_page

KIND = "report"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the step with these command line arguments (None: the process's own)."""
    parser = flags.step_parser("report", __doc__)
    flags.add_path(parser, "--summary", "FILE", "The summary.csv of the run's results folder.")
    flags.add_path(parser, "--out", "FILE", "The report.")
    args = parser.parse_args(argv)

    summary = read_manifest(manifest_path(args.summary))
    write_whole(args.out, build_page([read_results(args.summary.parent)]))
    recipe = make_recipe("report", {}, {"summary": summary.origin})
    write_manifest(args.out, KIND, inputs={"summary": summary.id}, recipe=recipe)


if __name__ == "__main__":
    running.run("report", main)
