"""The records of a run's jobs: the plan, which the main process writes, and their costs.

Jobs on other machines, and the command that puts artifacts into the store, read the plan. An entry
keeps the costs of the attempts that made it.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.json_files import read_json
from xft.store.store import PLANS, Recipe, Store

VIEW = ".results"
PLAN = "XFT_PLAN"  # the environment variable with the plan's path
COSTS_FILE = "costs.json"
SECONDS_BETWEEN = 10  # of the notes that tell how long an attempt lasted which was killed
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
GIB = 2**30


@dataclass(frozen=True)
class Job:
    """A job that makes an artifact.

    name: of the artifact, in the results folder.
    inputs: the entries and the user's files that it waits for, by the names in its rule.
    flags: of the step's command, but for those of what it writes.
    resources: what it asks a scheduler for.
    links, logs: paths in the results folder, each with its target in the store.
    texts: files that the step reads, by their name in the unfinished entry.
    contents: the hashes of the user's files that it reads, by path.
    programs: the user's files that it runs. Those that they import are among the contents.
    shows: the results folder, if the step reads what its inputs hold by their names there: as links
        in the folder VIEW of the unfinished entry.
    publish: the URL of the bucket that gets the entry.
    one_of: the digests of the artifacts of which the job takes one, by a choice among its inputs.
    may_diverge: whether an entry that says that a training diverged is a result.
    """

    name: str
    recipe: Recipe
    inputs: dict[str, list[str]]
    flags: str
    resources: dict[str, object]
    links: dict[str, str]
    logs: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    programs: list[str] = field(default_factory=list)
    shows: str | None = None
    publish: str | None = None
    one_of: list[str] = field(default_factory=list)
    may_diverge: bool = False


Jobs = dict[str, Job]  # by the digest of what they make


def write_plan(
    store: Store, results: Path, jobs: Mapping[str, Job], installed: Mapping = MappingProxyType({})
) -> Path:
    """Write the plan into the store, and name it in the environment. Returns its file.

    installed: the fields of `Installed`.
    """
    content = {
        "installed": dict(installed),
        "results": str(results.absolute()),
        "from_store": os.path.relpath(results.resolve(), store.root.resolve()),
        "jobs": {digest: asdict(job) for digest, job in jobs.items()},
    }
    text = json.dumps(content, indent=1)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = store.root / PLANS / f"{name}.json"
    write_whole(file, text)
    os.environ[PLAN] = str(file.absolute())
    return file


def read_plan() -> Jobs:
    """The jobs of the plan that the environment names, by digest. Raises UserError."""
    return jobs_of(plan_file())


def plan_file() -> Path:
    """The plan that the environment names. Raises UserError if it names none."""
    if PLAN not in os.environ:
        raise UserError(f"{PLAN} names no plan: this command is started by the workflow")
    return Path(os.environ[PLAN])


def jobs_of(file: Path) -> Jobs:
    """The jobs of a plan, by digest."""
    with reading(file) as plan:
        jobs = plan["jobs"].items()
        return Jobs({name: Job(**job | {"recipe": Recipe(**job["recipe"])}) for name, job in jobs})


@contextmanager
def reading(file: Path) -> Iterator[dict]:
    """The content of a plan. Raises UserError if it is damaged, also while its values are used."""
    try:
        yield read_json(file)
    except (UserError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{file} is no whole plan of a run. Delete it, and run the workflow again into each "
            "results folder of this store"
        ) from None


class Costs:
    """The costs of an entry.

    attempts: of each the seconds on the clock, the seconds of the processor, and the GiB of its
    largest process. The last two are None if the attempt was killed together with the process that
    measures. With a GPU also the GiB that torch allocated and reserved there, in the process with
    most. asked: GiB on a node and minutes, in the first attempt. expected: GiB of its largest
    process, and on a GPU, if the plan says them.
    """

    def __init__(self, folder: Path, resources: dict[str, object]):
        """resources: of the job, in its first attempt."""
        self.file = folder / COSTS_FILE
        earlier = read_json(self.file)["attempts"] if self.file.exists() else []
        memory = round(resources["mem_mb"] * 10**6 / GIB, 3)
        asked = {"memory_gib": memory, "minutes": resources["minutes"]}
        names = {"memory_gib": "expected_gib", "gpu_gib": "expected_gpu_gib"}
        expected = {name: resources.get(resource) for name, resource in names.items()}
        self.content = {"asked": asked, "expected": expected, "attempts": [*earlier, {}]}

    def measure(self, process) -> None:
        """Wait for the process of an attempt, and write its cost, if it is known.

        process: a `forks.NewProcess` or a `forks.Fork`.
        """
        began = time.monotonic()
        while process.returncode is None:
            self._write(time.monotonic() - began)
            with suppress(subprocess.TimeoutExpired, TimeoutError):
                process.wait(SECONDS_BETWEEN)
        if used := process.used:
            self._write(time.monotonic() - began, used[0], used[1] * RSS_UNIT / GIB)

    def add(self, values: dict[str, float]) -> None:
        """Write more values of the attempt that was measured."""
        if values:
            self.content["attempts"][-1] |= {name: round(v, 3) for name, v in values.items()}
            write_whole(self.file, json.dumps(self.content, indent=2) + "\n")

    def _write(self, seconds: float, cpu: float | None = None, memory: float | None = None) -> None:
        values = {"seconds": seconds, "processor_seconds": cpu, "memory_gib": memory}
        self.content["attempts"][-1] = {
            name: None if value is None else round(value, 3) for name, value in values.items()
        }
        write_whole(self.file, json.dumps(self.content, indent=2) + "\n")


def total_cost(file: Path) -> dict:
    """The costs of a job over all its attempts, by its file of `Costs`.

    parts: the number of attempts. seconds. GiB: memory, of the largest process, at most; expected,
    of the same; asked, for a node; gpu_allocated, gpu_reserved, by torch on a GPU, at most;
    gpu_expected, on a GPU. minutes, the limit. load, percent of one core. A value that is not known
    is None. Raises an exception like KeyError if the file is not such a file.
    """
    costs = read_json(file)
    attempts, asked = costs["attempts"], costs["asked"]
    whole = [attempt for attempt in attempts if attempt["processor_seconds"] is not None]
    on_gpu = [attempt for attempt in attempts if "gpu_reserved_gib" in attempt]
    busy = sum(attempt["processor_seconds"] for attempt in whole)
    return {
        "parts": len(attempts),
        "seconds": sum(attempt["seconds"] for attempt in attempts),
        "memory": max((attempt["memory_gib"] for attempt in whole), default=None),
        "expected": costs.get("expected", {}).get("memory_gib"),
        "asked": asked["memory_gib"],
        "gpu_allocated": max((attempt["gpu_allocated_gib"] for attempt in on_gpu), default=None),
        "gpu_reserved": max((attempt["gpu_reserved_gib"] for attempt in on_gpu), default=None),
        "gpu_expected": costs.get("expected", {}).get("gpu_gib"),
        "minutes": asked["minutes"],
        "load": 100 * busy / sum(attempt["seconds"] for attempt in whole) if whole else None,
    }
