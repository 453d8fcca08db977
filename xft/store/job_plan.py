"""The plan of a run: its jobs, as the main process worked them out.

Jobs on other machines, and the command that puts artifacts into the store, read it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xft.artifacts.files import write_whole
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.store.recipe import Recipe
from xft.store.store import PLANS, Store

VIEW = ".results"
PLAN = "XFT_PLAN"  # the environment variable with the plan's path


@dataclass(frozen=True)
class Job:
    """A job that makes an artifact.

    name: of the artifact, in the results folder.
    inputs: the entries and the user's files that it waits for, by the names in its rule.
    places: what it reads of them: files and folders in the entries, and the user's files.
    flags: of the step's command, beside those of its rule.
    resources: what it asks a scheduler for.
    links, logs: paths in the results folder, each with its target in the store.
    texts: files that the step reads, by their name in the unfinished entry.
    contents: the hashes of the user's files that it reads, by path.
    shows: the results folder, if the step reads what its inputs hold by their names there: as links
        in the folder VIEW of the unfinished entry.
    """

    name: str
    recipe: Recipe
    inputs: dict[str, list[str]]
    places: dict[str, list[str]]
    flags: str
    resources: dict[str, object]
    links: dict[str, str]
    logs: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    shows: str | None = None


Jobs = dict[str, Job]  # by the digest of what they make


def write_plan(store: Store, results: Path, jobs: Mapping[str, Job]) -> Path:
    """Write the plan into the store, and name it in the environment. Returns its file."""
    content = {
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
    if PLAN not in os.environ:
        raise UserError(f"{PLAN} names no plan: this command is started by the workflow")
    return jobs_of(Path(os.environ[PLAN]))


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
