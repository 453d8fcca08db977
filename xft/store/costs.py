"""Measures what the attempts of a job cost, and keeps it in the entry that they make."""

import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from xft.artifacts.files import write_whole
from xft.checkpoints.strict_json import read_json

COSTS_FILE = "costs.json"
SECONDS_BETWEEN = 10  # of the notes that tell how long an attempt lasted which was killed
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Costs:
    """The costs of an entry.

    attempts: of each the seconds on the clock, the seconds of the processor, and the MB of its
    largest process. The last two are None if the attempt was killed together with the process that
    measures. asked: the job's resources, in its first attempt.
    """

    def __init__(self, folder: Path, asked: dict[str, object]):
        self.file = folder / COSTS_FILE
        earlier = read_json(self.file)["attempts"] if self.file.exists() else []
        self.content = {"asked": {name: asked.get(name) for name in ("mem_mb", "minutes")}}
        self.content["attempts"] = [*earlier, {}]

    def measure(self, process: subprocess.Popen) -> None:
        """Wait for the process of an attempt, the first child of this one, and write its cost."""
        began = time.monotonic()
        while process.returncode is None:
            self._write(time.monotonic() - began)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = used.ru_maxrss * RSS_UNIT / 2**20
        self._write(time.monotonic() - began, used.ru_utime + used.ru_stime, memory)

    def _write(
        self, seconds: float, processor_seconds: float | None = None, memory: float | None = None
    ) -> None:
        measured = {"seconds": seconds, "processor_seconds": processor_seconds, "memory_mb": memory}
        self.content["attempts"][-1] = {
            name: None if value is None else round(value, 2) for name, value in measured.items()
        }
        write_whole(self.file, json.dumps(self.content, indent=2) + "\n")


def total_cost(file: Path) -> dict:
    """What a job cost in all its attempts, by its file of `Costs`.

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
