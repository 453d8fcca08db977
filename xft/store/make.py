"""Runs the command of a rule's job, and puts what it makes into the store.

    python -m xft.store.make STORE/STEP/DIGEST COMMAND...

The command writes into STORE/STEP/DIGEST.partial, and what it prints stands in the job's log. If it
succeeds, the folder becomes the entry. If it fails, the folder stays, so that the next attempt can
continue. The plan of the run, which XFT_PLAN names, holds the entry's recipe and names. XFT_JOB
names the job in the command's lines. What each attempt costs is measured, and stays with the entry.
"""

import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

from xft.artifacts.claims import this_process
from xft.artifacts.manifest import DIVERGED, DIVERGED_FILE, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.common.file_access import explain, write_whole
from xft.common.foreign_text import printable
from xft.common.gpus import PEAKS, noted_peaks
from xft.common.json_files import read_json
from xft.common.progress import JOB
from xft.common.results_folder import CHOSEN
from xft.store import forks, others
from xft.store.file_hashes import content_hash
from xft.store.installed import installed_at_start
from xft.store.job_records import COSTS_FILE, VIEW, Costs, Job, Jobs, read_plan
from xft.store.links import lay
from xft.store.store import claimed, finish, is_whole, log_of, owner, partial, worker

SECONDS_BETWEEN = 0.2
# Steps that know of settings that diverged. Nothing else is made from those.
READ_CHOICES = ("choose", "measure_chosen", "summary", "report")
ERROR = re.compile(rb"^[a-z_]+: error: ", re.MULTILINE)  # the first line of a step's last message
# The environment variable that keeps errors off the screen, where the end of the run shows them.
HIDE_ERRORS = "XFT_HIDE_ERRORS"
_begun = Event()  # while the command runs: it gets the same signals, and ends first


def make(entry: Path, command: list[str]) -> int:
    """Run a command and put what it makes into the store. Returns the command's exit status."""
    jobs = read_plan()
    job = jobs[entry.name]
    lay(job.logs)
    if not is_whole(entry):
        _check_unchanged(job)
        if job.one_of and (status := _make_chosen(entry, jobs)):
            return status
        with claimed(entry) as lock:
            # A process of an earlier run may have made it meanwhile.
            if not is_whole(entry) and (status := _make(entry, command, jobs, lock.fileno())):
                return status
    lay(job.links | job.logs)
    return 0


def _make_chosen(entry: Path, jobs: Jobs) -> int:
    """Make the artifact that a job takes, if it is missing. Returns the exit status.

    It is made under its own recipe, so that it is the same with and without a choice. Another job
    may be making it, which is waited for.
    """
    job = jobs[entry.name]
    (choice,) = job.inputs["choice"]
    digest = job.one_of[read_json(Path(choice, CHOSEN))["chosen"]["number"]]
    chosen = jobs[digest]
    step = chosen.recipe.step
    place = entry.parents[1] / step / digest
    artifact = partial(place) / chosen.resources["file"]
    words = shlex.split(chosen.flags)
    command = ["python", "-m", f"workflow_scripts.{step}", *words, "--out", str(artifact)]
    while worker(place) and not is_whole(place):
        time.sleep(SECONDS_BETWEEN)
    if status := make(place, command):
        shutil.copyfile(log_of(place), log_of(entry))
        return status
    partial(entry).mkdir(parents=True, exist_ok=True)
    if (place / COSTS_FILE).is_file():  # what it cost to make stays with what is taken
        shutil.copyfile(place / COSTS_FILE, partial(entry) / COSTS_FILE)
    return 0


def _make(entry: Path, command: list[str], jobs: Jobs, lock: int) -> int:
    """Let the command make the entry. Returns its exit status."""
    job = jobs[entry.name]
    artifact = partial(entry) / job.resources["file"]
    partial(entry).mkdir(parents=True, exist_ok=True)
    lay(_view(entry, job, jobs.values()))
    if not _is_finished(artifact) and (status := _run_or_leave(entry, command, job, lock)):
        return status
    try:
        _check_unchanged(job, artifact)
    except UserError:
        shutil.rmtree(partial(entry))
        raise
    finish(entry, job.recipe)
    _begun.clear()  # a signal ends the upload
    if job.publish and (fault := others.publish_for_job(job.publish, entry)):
        with log_of(entry).open("a", encoding="utf-8") as file:  # a run tells it in the end
            file.write(f"store: not uploaded to {job.publish}: {fault}\n")
    return 0


def _run_or_leave(entry: Path, command: list[str], job: Job, lock: int) -> int:
    """Run the command. Where a training may diverge, an entry that says so is a result too.

    Nothing is run for what would be made from such an entry. Returns the exit status. Raises
    UserError if a model is needed that diverged.
    """
    left = partial(entry) / DIVERGED_FILE
    if job.recipe.step not in READ_CHOICES:
        for path in chain(*job.inputs.values()):
            if (file := Path(path, DIVERGED_FILE)).is_file():
                cause = DIVERGED.read(file)["cause"]
                if not job.may_diverge:
                    with suppress(OSError):  # it holds what an earlier attempt made
                        partial(entry).rmdir()
                    raise UserError(
                        f"{job.name} would be made from a training that diverged: {cause}. To try "
                        f"it again, delete {path}"
                    )
                DIVERGED.write(left, {"cause": cause})
                return 0
    status = _run(entry, command, job, lock)
    if status and job.may_diverge and manifest_path(left).is_file():
        tell(log_of(entry), f"store: {job.name} diverged: its setting is left out of the choice")
        return 0
    return status


def _view(entry: Path, job: Job, jobs: Iterable[Job]) -> dict[str, str]:
    """Links to what the inputs of a job hold, by their names in the results folder."""
    if not job.shows:
        return {}
    entries, folder = {*chain(*job.inputs.values())}, partial(entry) / VIEW
    return {
        str(folder / os.path.relpath(name, job.shows)): target
        for other in jobs
        for name, target in other.links.items()
        if os.path.dirname(target) in entries  # noqa: PTH120 (there may be thousands)
    }


def _check_unchanged(job: Job, artifact: Path | None = None) -> None:
    """Raise UserError if a file of the user's, the step's code or a package has changed since the
    run began.

    artifact: that the job made. A base must hold no other files than its recipe.
    """
    faults = [
        f"{file} was changed"
        for file, known in job.contents.items()
        if not Path(file).is_file() or content_hash(Path(file)) != known
    ]
    if fault := installed_at_start().fault(job.recipe.step):
        faults.append(fault)
    if artifact and job.contents and job.recipe.step == "base":
        added = read_manifest(manifest_path(artifact)).files.keys() - job.recipe.inputs.keys()
        faults += [f"{file} was added to the model" for file in sorted(added)]
    if faults:
        raise UserError(
            f"{faults[0]} while the workflow ran, so {job.name} would not be what its recipe says, "
            "and is not kept. Run the same command again"
        )


def _is_finished(artifact: Path) -> bool:
    """Whether an earlier attempt was killed when its command had ended. The manifest comes last.

    A folder without a manifest is removed.
    """
    if manifest_path(artifact).is_file():
        return True
    if artifact.is_dir():
        shutil.rmtree(artifact)
    return False


def _run(entry: Path, command: list[str], job: Job, lock: int) -> int:
    """Run the command. It inherits the lock, and so keeps it if this process is killed.

    Only the jobs of `online` steps may use the network.
    """
    for name, text in job.texts.items():
        write_whole(partial(entry) / name, text)
    environment = os.environ | {JOB: job.name}
    costs = Costs(partial(entry), job.resources)
    if not job.resources["online"]:
        environment["HF_HUB_OFFLINE"] = "1"
    log = log_of(entry)
    with tempfile.TemporaryDirectory() as peaks:
        environment[PEAKS] = peaks
        with (
            shown(log) as output,
            forks.start(command, environment, output.fileno(), lock) as process,
        ):
            _begun.set()
            owner(entry).write_text(this_process(process.pid))
            costs.measure(process)
        costs.add(noted_peaks(Path(peaks)))
    status = process.returncode
    if status == -signal.SIGKILL:
        tell(
            log,
            "store: error: the step was killed by SIGKILL, as when memory runs out. "
            "docs/troubleshooting.md says what to do",
        )
    nothing_kept = {COSTS_FILE, *(Path(name).parts[0] for name in job.texts)}
    if status and {path.name for path in partial(entry).iterdir()} <= nothing_kept:
        shutil.rmtree(partial(entry))
    return status if status >= 0 else 128 - status


def link_declared(log: Path) -> None:
    """Let the log that the rule declares lead to the real one, which exists from now on.

    Snakemake deletes the declared one, `<digest>.job.log`, when a job starts.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.open("ab").close()
    link = log.with_suffix(".job.log")
    link.unlink(missing_ok=True)
    link.symlink_to(log.name)


@contextmanager
def shown(log: Path) -> Iterator[BinaryIO]:
    """The empty log, for a command to write into. The screen follows until the command ends."""
    if log.exists():
        os.truncate(log, 0)
    with log.open("ab") as file:
        ended = Event()
        follower = Thread(target=_follow, args=(log, ended))
        follower.start()
        try:
            yield file
        finally:
            ended.set()
            follower.join()


def tell(log: Path, error: str) -> None:
    """Write an error into the log, and onto the screen unless the end of the run shows it."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    if HIDE_ERRORS not in os.environ:
        print(printable(error), file=sys.stderr)


def _follow(log: Path, ended: Event) -> None:
    """Show whole lines of a log until the command has ended, or up to an error if it is hidden."""
    rest, is_last = b"", False
    with log.open("rb") as file, suppress(OSError):  # such as a screen that is closed
        while not is_last:
            is_last = ended.wait(SECONDS_BETWEEN)
            text = rest + file.read()
            end = len(text) if is_last else text.rfind(b"\n") + 1
            lines, rest = text[:end], text[end:]
            error = ERROR.search(lines) if HIDE_ERRORS in os.environ else None
            said = lines[: error.start()] if error else lines
            text = printable(said.decode(errors="backslashreplace"))
            sys.stdout.buffer.write(text.encode())
            sys.stdout.buffer.flush()
            if error:
                return


def main() -> None:
    """Run the command of the arguments. While it runs, signals do not end this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _begun.is_set() or sys.exit(128 + number))
    entry, command = Path(sys.argv[1]), sys.argv[2:]
    try:
        link_declared(log_of(entry))
        sys.exit(make(entry, command))
    except (UserError, OSError) as error:
        tell(log_of(entry), f"store: error: {explain(error) or error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
