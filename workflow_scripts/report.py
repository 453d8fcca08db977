"""Write the report of a finished run: one HTML file for a browser, without network.

The step writes the main charts as SVG files into the folder `figures` beside it.
"""

from xft.artifacts.artifact import create_artifact
from xft.artifacts.manifest import manifest_path, read_manifest, write_manifest
from xft.cli.step import Step, run
from xft.common.file_access import write_whole
from xft.config.steps import FIGURES
from xft.reporting.page.folder import Folder
from xft.reporting.page.page import build_page, write_figures


def main(argv: list[str] | None = None) -> None:
    step = Step("report", __doc__)
    step.path("--summary", "FILE", "The summary.csv of the run's results folder.")
    step.output("--out", "FILE", "The report.")
    args = step.parse_args(argv)

    summary = read_manifest(manifest_path(args.summary))
    runs = [Folder(args.summary.parent)]
    known = {"inputs": {"summary": summary.id}}
    with create_artifact(args.out.with_name(FIGURES), FIGURES, **known) as draft:
        write_figures(runs, draft.path)
    write_whole(args.out, build_page(runs))
    write_manifest(args.out, "report", **known)


if __name__ == "__main__":
    run("report", main)
