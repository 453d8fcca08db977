"""Write the report of one or more results folders: one HTML file for a browser, without network."""

from pathlib import Path

import yaml

from workflow_scripts.artifacts.files import write_whole
from workflow_scripts.cli import flags
from workflow_scripts.common.errors import UserError
from workflow_scripts.config.sections import XftConfig
from workflow_scripts.config.validation import validated
from workflow_scripts.reporting.page.folder import Results, read_results
from workflow_scripts.reporting.page.html import GENERATOR, build_page
from workflow_scripts.workflow.places import CONFIG_FILE
from workflow_scripts.workflow.settings import chosen_values

REPORT_FILE = "report.html"


def main(argv: list[str] | None = None) -> None:
    parser = flags.tool_parser("report", __doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RESULTS", help="The results_dir of a run."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"The report. Default: {REPORT_FILE} in the first results folder.",
    )
    args = parser.parse_args(argv)
    out = args.out or args.folders[0] / REPORT_FILE
    _check_replaceable(out)
    runs = [read_results(folder) for folder in args.folders]
    chosen = {str(run.folder): _chosen(run) for run in runs}
    write_whole(out, build_page(runs, chosen))
    print(f"{out}: open it in a browser")


def _check_replaceable(out: Path) -> None:
    """Raise UserError if the file exists and is no report."""
    if out.is_dir() or (out.exists() and GENERATOR.encode() not in out.read_bytes()[:400]):
        raise UserError(f"{out} is no report. Name another file with --out")


def _chosen(run: Results) -> dict[str, object]:
    """The values of a run's configuration that are not the defaults; none if it is not known."""
    file = run.folder / CONFIG_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return chosen_values(validated(XftConfig, content, "config"))
    except FileNotFoundError:
        run.missing.append(f"{CONFIG_FILE}: the folder holds no configuration")
    except (UserError, yaml.YAMLError, UnicodeDecodeError) as error:
        run.missing.append(f"{CONFIG_FILE}: not a configuration of this version: {error}")
    return {}
