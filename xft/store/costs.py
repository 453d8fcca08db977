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
GIB = 2**30
# In files of older versions, another name and unit of memory_gib.
OLDER = {"memory_mb": 2**20, "mem_mb": 10**6}


class Costs:
    """The costs of an entry.

    attempts: of each the seconds on the clock, the seconds of the processor, and the GiB of its
    largest process. The last two are None if the attempt was killed together with the process that
    measures. asked: GiB on a node and minutes, in the first attempt. expected: GiB of its largest
    process, if the plan says them.
    """

    def __init__(self, folder: Path, resources: dict[str, object]):
        """resources: of the job, in its first attempt."""
        self.file = folder / COSTS_FILE
        earlier = read_json(self.file)["attempts"] if self.file.exists() else []
        asked = {"memory_gib": _gib(resources), "minutes": resources.get("minutes")}
        expected = {"memory_gib": resources.get("expected_gib")}
        self.content = {"asked": asked, "expected": expected, "attempts": [*earlier, {}]}

    def measure(self, process: subprocess.Popen) -> None:
        """Wait for the process of an attempt, the first child of this one, and write its cost."""
        began = time.monotonic()
        while process.returncode is None:
            self._write(time.monotonic() - began)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = used.ru_maxrss * RSS_UNIT / GIB
        self._write(time.monotonic() - began, used.ru_utime + used.ru_stime, memory)

    def _write(
        self, seconds: float, processor_seconds: float | None = None, memory: float | None = None
    ) -> None:
        measured = {"seconds": seconds, "processor_seconds": processor_seconds}
        self.content["attempts"][-1] = {
            name: None if value is None else round(value, 3)
            for name, value in (measured | {"memory_gib": memory}).items()
        }
        write_whole(self.file, json.dumps(self.content, indent=2) + "\n")


def total_cost(file: Path) -> dict:
    """What a job cost in all its attempts, by its file of `Costs`.

    parts: the number of attempts. seconds. GiB: memory, of the largest process, at most; expected,
    of the same; asked, for a node. minutes, the limit. load, percent of one core. A value that is
    not known is None. Raises an exception like KeyError if the file is not such a file.
    """
    costs = read_json(file)
    attempts, asked = costs["attempts"], costs["asked"]
    whole = [attempt for attempt in attempts if attempt["processor_seconds"] is not None]
    busy = sum(attempt["processor_seconds"] for attempt in whole)
    return {
        "parts": len(attempts),
        "seconds": sum(attempt["seconds"] for attempt in attempts),
        "memory": max(map(_gib, whole), default=None),
        "expected": costs.get("expected", {}).get("memory_gib"),
        "asked": _gib(asked),
        "minutes": asked["minutes"],
        "load": 100 * busy / sum(attempt["seconds"] for attempt in whole) if whole else None,
    }


def _gib(values: dict) -> float | None:
    """The memory among values, in GiB, also under an older name."""
    for name, unit in OLDER.items():
        if values.get(name) is not None:
            return round(values[name] * unit / GIB, 3)
    return values.get("memory_gib")
