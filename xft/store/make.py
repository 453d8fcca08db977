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
from xft.common.user_code import program_files
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
        status = _make_missing(entry, command, jobs)
        if status:
            return status
    lay(job.links | job.logs)
    return 0


def _make_missing(entry: Path, command: list[str], jobs: Jobs) -> int:
    """Make an entry that the store lacks. Returns the exit status."""
    job = jobs[entry.name]
    _check_unchanged(job)
    if job.one_of:
        status = _make_chosen(entry, jobs)
        if status:
            return status
    with claimed(entry) as lock:
        if is_whole(entry):  # a process of an earlier run has made it meanwhile
            return 0
        return _make(entry, command, jobs, lock.fileno())


def _make_chosen(entry: Path, jobs: Jobs) -> int:
    """Make the artifact that a job takes, if it is missing. Returns the exit status.

    It is made under its own recipe, so that it is the same with and without a choice. Another job
    may be making it, which is waited for.
    """
    job = jobs[entry.name]
    (folder,) = job.inputs["choice"]
    choice = read_json(Path(folder, CHOSEN))
    digest = job.one_of[choice["chosen"]["number"]]
    chosen = jobs[digest]
    step = chosen.recipe.step
    place = entry.parents[1] / step / digest
    artifact = partial(place) / chosen.resources["file"]
    words = shlex.split(chosen.flags)
    command = ["python", "-m", f"workflow_scripts.{step}", *words, "--out", str(artifact)]
    while worker(place) and not is_whole(place):
        time.sleep(SECONDS_BETWEEN)
    status = make(place, command)
    if status:
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
    if not _is_finished(artifact):
        status = _run_or_leave(entry, command, job, lock)
        if status:
            return status
    try:
        _check_unchanged(job, artifact)
    except UserError:
        shutil.rmtree(partial(entry))
        raise
    finish(entry, job.recipe)
    _begun.clear()  # a signal ends the upload
    if job.publish:
        _upload(entry, job.publish)
    return 0


def _upload(entry: Path, url: str) -> None:
    """Upload an entry to a bucket. A fault stands in the log; a run tells it in the end."""
    fault = others.publish_for_job(url, entry)
    if fault:
        with log_of(entry).open("a", encoding="utf-8") as file:
            file.write(f"store: not uploaded to {url}: {fault}\n")


def _run_or_leave(entry: Path, command: list[str], job: Job, lock: int) -> int:
    """Run the command. Where a training may diverge, an entry that says so is a result too.

    Nothing is run for what would be made from such an entry. Returns the exit status. Raises
    UserError if a model is needed that diverged.
    """
    left = partial(entry) / DIVERGED_FILE
    source = _diverged_source(job)
    if source is not None:
        cause = DIVERGED.read(Path(source, DIVERGED_FILE))["cause"]
        if job.may_diverge:
            DIVERGED.write(left, {"cause": cause})
            return 0
        with suppress(OSError):  # it holds what an earlier attempt made
            partial(entry).rmdir()
        raise UserError(
            f"{job.name} would be made from a training that diverged: {cause}. To try it again, "
            f"delete {source}"
        )
    status = _run(entry, command, job, lock)
    if status and job.may_diverge and manifest_path(left).is_file():
        tell(log_of(entry), f"store: {job.name} diverged: its setting is left out of the choice")
        return 0
    return status


def _diverged_source(job: Job) -> str | None:
    """The entry of a training that diverged, from which a job would make its own; None without one.

    None also for steps that know of such entries.
    """
    if job.recipe.step in READ_CHOICES:
        return None
    for path in chain(*job.inputs.values()):
        if Path(path, DIVERGED_FILE).is_file():
            return path
    return None


def _view(entry: Path, job: Job, jobs: Iterable[Job]) -> dict[str, str]:
    """Links to what the inputs of a job hold, by their names in the results folder."""
    if not job.shows:
        return {}
    entries = {*chain(*job.inputs.values())}
    folder = partial(entry) / VIEW
    links = {}
    for other in jobs:
        for name, target in other.links.items():
            if os.path.dirname(target) in entries:  # noqa: PTH120 (there may be thousands)
                place = folder / os.path.relpath(name, job.shows)
                links[str(place)] = target
    return links


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
    fault = installed_at_start().fault(job.recipe.step)
    if fault:
        faults.append(fault)
    if not faults:  # all programs can be read
        faults += [f"{added} was added" for added in _added_files(job)]
    if artifact and job.contents and job.recipe.step == "base":
        added = read_manifest(manifest_path(artifact)).files.keys() - job.recipe.inputs.keys()
        faults += [f"{file} was added to the model" for file in sorted(added)]
    if faults:
        raise UserError(
            f"{faults[0]} while the workflow ran, so {job.name} would not be what its recipe says, "
            "and is not kept. Run the same command again"
        )


def _added_files(job: Job) -> list[str]:
    """Files of the user's programs that were not there when the run began, in words."""
    return [
        f"{file}, which {program} imports,"
        for program in job.programs
        for file in program_files(Path(program)).values()
        if str(file) not in job.contents
    ]


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
    if not job.resources["online"]:
        environment["HF_HUB_OFFLINE"] = "1"
    costs = Costs(partial(entry), job.resources)
    log = log_of(entry)
    with tempfile.TemporaryDirectory() as peaks:
        environment[PEAKS] = peaks
        with (
            log_on_screen(log) as output,
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
    if status and not _keeps_work(entry, job):
        shutil.rmtree(partial(entry))
    return status if status >= 0 else 128 - status


def _keeps_work(entry: Path, job: Job) -> bool:
    """Whether an attempt that failed has left something from which the next one goes on."""
    without_work = {COSTS_FILE, *(Path(name).parts[0] for name in job.texts)}
    left = {path.name for path in partial(entry).iterdir()}
    return not left <= without_work


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
def log_on_screen(log: Path) -> Iterator[BinaryIO]:
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
    rest = b""
    is_last = False
    with log.open("rb") as file, suppress(OSError):  # such as a screen that is closed
        while not is_last:
            is_last = ended.wait(SECONDS_BETWEEN)
            text = rest + file.read()
            end = len(text) if is_last else text.rfind(b"\n") + 1
            lines = text[:end]
            rest = text[end:]
            error = ERROR.search(lines) if HIDE_ERRORS in os.environ else None
            if error:
                _show(lines[: error.start()])
                return
            _show(lines)


def _show(lines: bytes) -> None:
    """Write lines of a log onto the screen."""
    text = printable(lines.decode(errors="backslashreplace"))
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _end_unless_begun(number: int, _frame: object) -> None:
    """End this process at a signal, but not while the command runs."""
    if not _begun.is_set():
        sys.exit(128 + number)


def main() -> None:
    """Run the command of the arguments. While it runs, signals do not end this process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_unless_begun)
    entry = Path(sys.argv[1])
    command = sys.argv[2:]
    try:
        link_declared(log_of(entry))
        sys.exit(make(entry, command))
    except (UserError, OSError) as error:
        tell(log_of(entry), f"store: error: {explain(error) or error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
