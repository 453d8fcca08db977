"""Reads what the jobs of a run cost."""

from pathlib import Path

from xft.checkpoints.strict_json import read_json

COSTS = "costs"  # the folder, in a results folder, with links to what was measured
FIGURES = "figures"  # the folder that step report writes beside the page


def read_job(file: Path) -> dict:
    """What a job cost in all its attempts, by its `Costs`.

    parts: the number of attempts. seconds. memory and asked, MB at most measured and planned.
    minutes, planned at most. load, percent of one core. A value that was not measured is None.
    Raises an exception like KeyError if the file is not such a file.
    """
    costs = read_json(file)
    attempts, asked = costs["attempts"], costs["asked"]
    whole = [one for one in attempts if one["processor_seconds"] is not None]
    busy = sum(one["processor_seconds"] for one in whole)
    return {
        "parts": len(attempts),
        "seconds": sum(one["seconds"] for one in attempts),
        "memory": max((one["memory_mb"] for one in whole), default=None),
        "asked": asked["mem_mb"],
        "minutes": asked["minutes"],
        "load": 100 * busy / sum(one["seconds"] for one in whole) if whole else None,
    }
