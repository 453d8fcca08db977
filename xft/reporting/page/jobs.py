"""Reads what the jobs of a run took, and how the steps depend on each other."""

import math
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from xft.artifacts.manifest import read_manifest
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.reporting.page.files import own_files

BENCHMARKS = "benchmarks"
MARK = "~"  # between a key and its value, in the name of a folder
REPORT, FIGURES = "report", "figures"  # what step report writes
MANIFESTS = ".manifest.json"


def read_jobs(folder: Path) -> list[dict]:
    """What each job took, by Snakemake's benchmarks: the longest job first.

    job, step, seconds; memory and asked, MB at most measured and planned; minutes, planned at
    most; load, percent of one core. A value that was not measured is None. A job that went on
    after a kill has the values of its last part.
    """
    jobs = []
    for file in _files(folder, f"{BENCHMARKS}/**/*.jsonl"):
        measured = read_json(file)
        planned = measured.get("resources") or {}
        name = file.relative_to(folder / BENCHMARKS).with_suffix("")
        jobs.append(
            {"job": name.as_posix(), "step": step_name(name), "seconds": measured["s"]}
            | {"memory": _number(measured["max_rss"]), "asked": _number(planned.get("mem_mb"))}
            | {"minutes": _number(planned.get("runtime")), "load": _number(measured["mean_load"])}
        )
    return sorted(jobs, key=lambda job: -job["seconds"])


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def step_name(path: Path) -> str:
    """The first folder of a path in the results that names no variation, without an ending."""
    first = next(part for part in path.parts if MARK not in part)
    return first.partition(".")[0]


def read_graph(folder: Path) -> dict[str, set[str]]:
    """The steps whose artifacts each step reads, by the manifests. What follows anyway is left out.

    `base` is left out of those of `moe_sft`, for example: `moe` reads it.
    """
    steps: dict[str, str] = {}
    read: dict[str, set[str]] = defaultdict(set)
    for file in _files(folder, f"**/*{MANIFESTS}"):
        try:
            manifest = read_manifest(file)
        except UserError:
            continue
        step = step_name(file.relative_to(folder))
        steps[manifest.origin] = step
        read[step].update(manifest.recipe.inputs.values() if manifest.recipe else ())
    direct = {
        step: {steps[i] for i in inputs if i in steps} - {step} for step, inputs in read.items()
    }
    return {
        step: {source for source in sources if not _follows(source, sources - {source}, direct)}
        for step, sources in direct.items()
    }


def _follows(step: str, others: set[str], direct: dict[str, set[str]]) -> bool:
    """Whether one of the other steps reads from the step, directly or not."""
    return any(step in direct[other] or _follows(step, direct[other], direct) for other in others)


def layout(graph: dict[str, set[str]]) -> dict[str, tuple[float, int]]:
    """A place for each step: a column around zero, and a row above all that read from the step.

    graph: the steps that each step reads from.
    """
    rows = dict.fromkeys(graph, 0)
    for step in reversed([*TopologicalSorter(graph).static_order()]):
        for source in graph[step]:
            rows[source] = min(rows[source], rows[step] - 1)
    beside: dict[int, list[str]] = defaultdict(list)
    for step, row in rows.items():
        beside[row].append(step)
    return {
        step: (number - (len(steps) - 1) / 2, row)
        for row, steps in beside.items()
        for number, step in enumerate(sorted(steps))
    }


def read_sizes(folder: Path) -> dict[str, int]:
    """The bytes of the files of each step or folder, without what links lead to, largest first."""
    sizes: dict[str, int] = defaultdict(int)
    for path in _files(folder, "**/*"):
        if not path.is_symlink():
            sizes[step_name(path.relative_to(folder))] += path.stat().st_size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """The files of a results folder that fit the pattern, without those of the report itself."""
    for path in own_files(folder, pattern):
        if step_name(path.relative_to(folder)) not in (REPORT, FIGURES):
            yield path
