"""Checks that a run does not overwrite the user's files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.artifacts.artifact import replacing_fault
from xft.artifacts.manifest import manifest_path
from xft.artifacts.overlap import overlapping
from xft.common.errors import UserError
from xft.config.recorded import CONFIG_FILE, is_results_folder
from xft.dag.state import State, Verdict
from xft.dag.wanted import Wanted
from xft.reporting.page.jobs import FIGURES

# Folders and files in a results folder that are not artifacts.
LOGS = "logs"
FOLDERS = (LOGS, "metrics", "benchmarks", FIGURES)
# The rules with `cache`.
SHARED_RULES = ("base", "tokens", "moe", "moe_sft", "sft", "weighted_trained", "heal")
RUNS_TABLE = "runs.csv"  # the table of runs, for step summary
FILES = (CONFIG_FILE, RUNS_TABLE, "data/report.json", "summary.md", "comparisons.csv")


def check_inputs(places: Iterable[Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Raise UserError if an output path equals an input, contains it or lies in it.

    inputs: keys of the configuration and their paths.
    """
    faults = [
        f"config: {key}: {path} is, holds or lies in {found[0]}, where the workflow writes. Choose "
        "another results_dir, or move the input"
        for key, path in inputs
        if (found := overlapping(places, path))
    ]
    if faults:
        raise UserError("\n".join(faults))


def check_free(verdicts: Mapping[Wanted, Verdict], results: Path, shares: bool) -> None:
    """Raise UserError if the workflow would replace something that it did not make.

    shares: whether artifacts come from a shared folder. Snakemake then removes older ones first.
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


def log_path(wanted: Wanted, results: Path) -> Path:
    """The log of the job that makes an artifact."""
    place = wanted.place.relative_to(results)
    match wanted.step:
        case "lm_eval":
            place = place.parent
        case "fetch_data":
            place = place.parents[1] / place.name
        case _ if wanted.is_file:
            place = place.with_suffix("")
    return results / LOGS / f"{place}.log"


def _fault(wanted: Wanted, results: Path, shares: bool) -> str | None:
    place = wanted.place
    beside = wanted.step == "report" and is_results_folder(results)
    if beside and (fault := replacing_fault(results / FIGURES)):
        return fault
    if shares and wanted.rule in SHARED_RULES and _is_own_folder(place):
        return (
            f"{place} was made without the shared folder and must be made again. Snakemake would "
            f"remove it first. Delete it and {manifest_path(place).name}, or move both away"
        )
    if wanted.is_file and not place.is_dir() and not manifest_path(place).exists():
        # In a results folder, a step that was killed may leave a file without a manifest.
        return _not_ours(place) if place.exists() and not is_results_folder(results) else None
    return replacing_fault(place)


def _is_own_folder(place: Path) -> bool:
    """Whether a folder holds files itself, not only links into a shared folder."""
    if place.is_symlink() or not place.is_dir():
        return False
    return any(path.is_file() and not path.is_symlink() for path in place.rglob("*"))


def _not_ours(path: Path) -> str:
    return (
        f"{path} is where the workflow writes, but the workflow did not make it. Move it away, or "
        "choose another results_dir"
    )
