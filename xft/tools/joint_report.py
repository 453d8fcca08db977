"""Write one report about several results folders, or about an unfinished run."""

from pathlib import Path

from xft.artifacts.manifest import manifest_path
from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.reporting.page.folder import Folder
from xft.reporting.page.page import GENERATOR, build_page


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft report", __doc__)
    parser.path("folders", "RESULTS", "The results_dir of a run.", shared=True, nargs="+")
    out = "The report. Default: report.html in the current folder."
    parser.output("--out", "FILE", out, required=False, default=Path("report.html"))
    args = parser.parse_args(argv)
    _check_replaceable(args.out)

    write_whole(args.out, build_page([Folder(folder) for folder in args.folders]))
    print(f"{args.out}: open it in a browser")


def _check_replaceable(out: Path) -> None:
    """Raise UserError if the file is the workflow's, or exists and is no report."""
    if manifest_path(out).exists():
        raise UserError(f"{out} is the workflow's own report. Name another file with --out")
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:400]):
        raise UserError(f"{out} is no report. Name another file with --out")
