"""The places where a run writes: nothing of the user's may stand there."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from workflow_scripts.artifacts.artifact import replacing_fault
from workflow_scripts.artifacts.manifest import manifest_path
from workflow_scripts.artifacts.overlap import overlap
from workflow_scripts.common.errors import UserError
from workflow_scripts.workflow.state import State, Verdict
from workflow_scripts.workflow.wanted import Wanted

# The first line of the file by which a results folder is known as one.
CONFIG_FILE = "config.yaml"
CONFIG_HEAD = (
    "# The completed configuration of these results. Each run of the workflow writes it.\n"
)
# What lies in a results folder besides artifacts.
FOLDERS = ("logs", "metrics")
# The rules with `cache`.
SHARED_RULES = ("base", "tokens", "moe", "moe_sft", "sft", "weighted_trained")
FILES = (CONFIG_FILE, "data/report.json", "summary.md", "comparisons.csv")


def check_inputs(places: Iterable[Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Raise UserError where a place to be written is, holds or lies in an input.

    inputs: key of the configuration, and path.
    """
    faults = [
        f"config: {key}: {path} is, holds or lies in {place}, where the workflow writes. Choose "
        "another results_dir, or move the input"
        for key, path in inputs
        for place in places
        if overlap(place, path)
    ]
    if faults:
        raise UserError("\n".join(faults))


def check_free(verdicts: Mapping[Wanted, Verdict], results: Path, shares: bool) -> None:
    """Raise UserError where the workflow would replace something that is not its own.

    shares: Snakemake fetches artifacts out of a shared folder, and removes what is in their place.
    """
    faults = [
        fault
        for wanted, verdict in verdicts.items()
        if verdict.state is not State.FITS and (fault := _fault(wanted, results, shares))
    ]
    if not is_results_folder(results):
        found = [results / name for name in FILES if (results / name).exists()]
        for folder in FOLDERS:
            found += (path for path in (results / folder).rglob("*") if path.is_file())
        faults += map(_not_ours, found[:3])
    if faults:
        raise UserError("\n".join([*faults, "Nothing was changed."]))


def is_results_folder(results: Path) -> bool:
    """Whether a run of the workflow has written to this folder before."""
    try:
        with (results / CONFIG_FILE).open(encoding="utf-8") as file:
            return file.readline() == CONFIG_HEAD
    except (OSError, UnicodeDecodeError):
        return False


def _fault(wanted: Wanted, results: Path, shares: bool) -> str | None:
    place = wanted.place
    if shares and wanted.rule in SHARED_RULES and _is_own_folder(place):
        return (
            f"{place} was made without the shared folder and is to be made again. Sharing would "
            f"remove it first. Delete it and {manifest_path(place).name}, or move both away"
        )
    if wanted.is_file and not place.is_dir() and not manifest_path(place).exists():
        # In a folder of the workflow's, its step was killed before it wrote the manifest.
        return _not_ours(place) if place.exists() and not is_results_folder(results) else None
    return replacing_fault(place)


def _is_own_folder(place: Path) -> bool:
    """Whether a folder holds files of its own, and not links into a shared folder."""
    if place.is_symlink() or not place.is_dir():
        return False
    return any(path.is_file() and not path.is_symlink() for path in place.rglob("*"))


def _not_ours(path: Path) -> str:
    return (
        f"{path} stands where the workflow writes, and is not its own. Move it away, or choose "
        "another results_dir"
    )
