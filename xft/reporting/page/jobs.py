"""Reads what the jobs of a run took."""

from pathlib import Path

from xft.checkpoints.strict_json import read_json
from xft.common.numbers import finite
from xft.reporting.page.files import own_files

FIGURES = "figures"  # the folder that step report writes beside the page


def read_jobs(folder: Path) -> list[dict]:
    """What each job took, by Snakemake's benchmarks: the longest job first.

    job, seconds; memory and asked, MB at most measured and planned; minutes, planned at most; load,
    percent of one core. A value that was not measured is None. A job that went on after a kill has
    the values of its last part.
    """
    jobs = []
    place = folder / "benchmarks"
    for file in own_files(folder, "benchmarks/**/*.jsonl"):
        measured = read_json(file)
        planned = measured.get("resources") or {}
        name = file.relative_to(place).with_suffix("").as_posix()
        jobs.append(
            {"job": name, "seconds": measured["s"]}
            | {"memory": finite(measured["max_rss"]), "asked": finite(planned.get("mem_mb"))}
            | {"minutes": finite(planned.get("runtime")), "load": finite(measured["mean_load"])}
        )
    return sorted(jobs, key=lambda job: -job["seconds"])
