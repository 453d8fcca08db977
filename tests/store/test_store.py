"""The store: entries are whole or absent, names are links, garbage is what nobody wants."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from damage import flip_a_bit
from project import NO_BYTECODE

from xft.artifacts.artifact import ENTRY_FILE, create_artifact
from xft.cli.running import failure
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.results_folder import CONFIG_FILE, CONFIG_HEAD
from xft.store import code, forks, others
from xft.store.code import Code
from xft.store.file_hashes import FileHashCache, content_hash
from xft.store.installed import Installed
from xft.store.job_records import COSTS_FILE, Job, read_plan, write_plan
from xft.store.links import find_unwanted, lay, take_away
from xft.store.make import HIDE_ERRORS, link_declared, make
from xft.store.store import (
    MARK,
    Recipe,
    Store,
    claimed,
    disk_bytes,
    finish,
    is_whole,
    log_of,
    partial,
    worker,
)
from xft.tools import gc

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('made')"
WAITS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('half'); time.sleep(600)"


@pytest.fixture(autouse=True)
def place(tmp_path, repository, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("XFT_PLAN", "")
    return tmp_path


def plan(*steps: str, results: str = "results", **about) -> list[Path]:
    """The entries of a plan with a job for each step. about: more fields of the jobs."""
    Path(results).mkdir(exist_ok=True, parents=True)
    store, jobs, entries = Store(Path("store")), {}, []
    store.open().close()
    for step in steps:
        recipe = Recipe(step, 1, {}, {})
        entry = store.entry(step, recipe.digest)
        links = {f"{results}/{step}.txt": str(entry / "result.txt")}
        asked = {"file": "result.txt", "online": False, "mem_mb": 1000, "minutes": 10}
        texts = {"read.txt": "given"}
        jobs[recipe.digest] = Job(step, recipe, {}, "", asked, links, {}, texts, **about)
        entries.append(entry)
    write_plan(store, Path(results), jobs)
    return entries


def step(entry: Path, code: str) -> list[str]:
    """The command of a step, which is given the file that it makes."""
    return [sys.executable, "-c", code, f"{partial(entry)}/result.txt"]


def command(entry: Path, code: str = WRITES) -> list[str]:
    """The command that a rule starts."""
    return [sys.executable, "-m", "xft.store.make", str(entry), *step(entry, code)]


def run(entry: Path, code: str = WRITES) -> int:
    """Do the same in this process."""
    link_declared(log_of(entry))
    return make(entry, step(entry, code))


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


def test_what_a_command_makes_becomes_an_entry_with_a_name():
    (entry,) = plan("moe")
    assert run(entry) == 0
    beside = {path.name for path in entry.iterdir()} - {ENTRY_FILE}
    assert beside == {"read.txt", "result.txt", COSTS_FILE}
    stated = json.loads((entry / ENTRY_FILE).read_text())
    assert stated["recipe"] == {"step": "moe", "version": 1, "options": {}, "inputs": {}}
    hashes = {name: hashlib.sha256((entry / name).read_bytes()).hexdigest() for name in beside}
    assert stated["files"] == hashes
    link = Path("results/moe.txt")
    assert link.is_symlink() and not link.readlink().is_absolute() and link.read_text() == "made"
    assert not partial(entry).exists()


def test_a_command_that_fails_leaves_what_it_can_go_on_from(capsys):
    (entry,) = plan("moe")
    assert run(entry, f"{WRITES}; sys.exit(3)") == 3
    assert not entry.exists() and (partial(entry) / "result.txt").read_text() == "made"
    assert run(entry) == 0
    (other,) = plan("ffn")
    assert run(other, "raise SystemExit(4)") == 4
    assert run(other, "import os; os.kill(os.getpid(), 9)") == 128 + signal.SIGKILL
    assert failure(capsys.readouterr().err).startswith("the step was killed by SIGKILL")
    assert not partial(other).exists()  # there is nothing to go on from


def test_all_attempts_of_a_job_are_measured_until_it_is_made():
    """One that fails, one that is killed with the process that measures, and the last one."""
    (entry,) = plan("moe")
    log = Store(Path("store")).log("moe", entry.name)
    write_whole(log, "of an earlier attempt")
    busy = "import time\nwhile time.process_time() < 0.3: pass\nheld = bytearray(10**8)\n"
    assert subprocess.run(command(entry, f"{busy}{WRITES}; sys.exit(3)")).returncode == 3
    started = subprocess.Popen(command(entry, WAITS), start_new_session=True)
    wait_until(lambda: (partial(entry) / "result.txt").read_text() == "half")
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    wait_until(lambda: not worker(entry))
    assert subprocess.run(command(entry)).returncode == 0
    failed, killed, last = json.loads((entry / COSTS_FILE).read_text())["attempts"]
    assert failed["seconds"] >= 0.3 <= failed["processor_seconds"] and failed["memory_gib"] > 0.093
    assert last["memory_gib"] < 0.093 and last["processor_seconds"] < failed["processor_seconds"]
    assert killed["processor_seconds"] is None is killed["memory_gib"] and killed["seconds"] >= 0

    assert log.read_text() == ""
    log.write_text("of the entry")
    assert run(entry) == 0  # nothing is to be made
    assert len(json.loads((entry / COSTS_FILE).read_text())["attempts"]) == 3
    assert log.read_text() == "of the entry"


def test_an_entry_appears_after_all_that_it_holds_is_on_the_disk(monkeypatch):
    (entry,) = plan("moe")
    (partial(entry) / "artifact").mkdir(parents=True)
    synced, fsync, rename = set(), os.fsync, Path.rename
    place = "/proc/self/fd/{}".format
    monkeypatch.setattr(os, "fsync", lambda f: synced.add(Path(place(f)).readlink()) or fsync(f))
    monkeypatch.setattr(Path, "rename", lambda a, b: {a, *a.rglob("*")} <= synced and rename(a, b))
    finish(entry.absolute(), Recipe("moe", 1, {}, {}))
    assert is_whole(entry)


def test_what_was_whole_when_its_parent_was_killed_is_not_made_again():
    (entry,) = plan("moe")
    write_whole(partial(entry) / "result.txt", "whole")
    (partial(entry) / "result.txt.manifest.json").touch()
    (partial(entry) / ".result.txt.training" / "checkpoint-1").mkdir(parents=True)
    assert run(entry) == 0
    assert (entry / "result.txt").read_text() == "whole"
    assert not list(entry.glob(".*"))


def test_an_orphan_keeps_its_entry_to_itself():
    """Its parent was killed. The next start of the job refuses, and later takes what it made."""
    (entry,) = plan("moe")
    ends = Path("ends")
    code = f"{WRITES}\nwhile not pathlib.Path({str(ends)!r}).exists(): pass\nprint('the end')"
    started = subprocess.Popen(command(entry, code), start_new_session=True)
    try:
        wait_until((partial(entry) / "result.txt").exists)
        started.kill()
        started.wait()
        assert "process" in worker(entry)
        with pytest.raises(UserError, match=rf"is making {entry}\. Wait"):
            run(entry)
    finally:
        ends.touch()
    wait_until(lambda: not worker(entry))
    assert "the end" in Store(Path("store")).log("moe", entry.name).read_text()
    assert run(entry) == 0  # its command goes on
    assert is_whole(entry) and worker(entry) is None


@pytest.mark.parametrize("hidden", [True, False])
def test_the_screen_shows_what_a_command_prints_and_the_log_keeps_it(hidden):
    """The end of a run shows errors. Where it does not, the screen shows them too."""
    (entry,) = plan("moe")
    before, error = "50%\nan error: no\n", "moe: error: two\nlines\n"
    code = f"import os; os.write(1, {before!r}.encode()); os.write(2, {error!r}.encode()); exit(1)"
    environment = os.environ | ({HIDE_ERRORS: "1"} if hidden else {})
    words = command(entry, code)
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.stdout == before + ("" if hidden else error) and done.stderr == ""
    declared = Path(f"store/logs/moe/{entry.name}.job.log")
    assert declared.is_symlink() and declared.read_text() == before + error


def test_an_interrupt_ends_the_command_first():
    (entry,) = plan("moe")
    options = {"start_new_session": True, "stdout": subprocess.PIPE, "text": True}
    started = subprocess.Popen(command(entry, WAITS), **options)
    made = partial(entry) / "result.txt"
    # While Python opens a file, it may lose an interrupt.
    wait_until(lambda: made.exists() and made.read_text() == "half")
    os.killpg(started.pid, signal.SIGINT)
    told = started.communicate()[0]
    assert started.returncode == 128 + signal.SIGINT
    assert told.count("KeyboardInterrupt") == 1 and "xft/store" not in told


def test_a_signal_before_the_command_begins_ends_the_job(monkeypatch):
    (entry,) = plan("moe")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind("server"), server.listen()
    entrance = os.open("server", os.O_PATH)
    with subprocess.Popen(["sleep", "600"], pass_fds=[entrance]) as silent:
        monkeypatch.setenv(forks.SOCKET, f"/proc/{silent.pid}/fd/{entrance}")
        started = subprocess.Popen([*command(entry)[:4], "python", "-m", "workflow_scripts.moe"])
        with server.accept()[0]:
            started.terminate()
        assert started.wait() == 128 + signal.SIGTERM
        silent.kill()
    os.close(entrance)


def test_names_replace_and_remove_nothing_but_links_into_a_store(place):
    (entry,) = plan("moe")
    write_whole(entry / "result.txt", "")
    links = {"results/dense/lam~0.75": str(entry / "result.txt")}
    lay(links | {"results/gone": str(entry / "nothing")})
    named_so = place / "elsewhere" / "0123456789abcdef.txt"  # as an entry is, but in no store
    write_whole(named_so, "")
    kept = [Path("results", name) for name in ("mine.txt", "dense/notes.txt", "link", "notes")]
    kept[0].touch(), kept[1].touch(), kept[2].symlink_to("/etc/hosts"), kept[3].symlink_to(named_so)
    take_away(Path("results"), links)
    assert Path("results/dense/lam~0.75").exists() and not Path("results/gone").is_symlink()
    take_away(Path("results"), [])
    assert not Path("results/dense/lam~0.75").is_symlink()
    assert all(path.exists() for path in kept) and entry.exists()
    for path in ("results/mine.txt", "results/link", "results/notes", "results/mine.txt/moe"):
        with pytest.raises(UserError, match="the workflow did not make it"):
            lay({path: str(entry)})


def test_nothing_is_kept_that_was_made_while_a_file_of_the_users_changed():
    rows = Path("rows.jsonl")
    rows.write_text("ten rows")
    (entry,) = plan("tokens", contents={"rows.jsonl": content_hash(rows)})
    changes = "open('rows.jsonl', 'w').write('three rows'); " + WRITES
    for program in (changes, "raise SystemExit('was started')"):  # during the job, before it
        with pytest.raises(UserError, match=r"^rows\.jsonl was changed while"):
            run(entry, program)
    assert not entry.exists() and not partial(entry).exists()
    rows.write_text("ten rows")
    assert not run(entry) and is_whole(entry)


@pytest.mark.parametrize(
    "name", ["helper.py", "helper/__init__.py", "numpy.py", "deeper.py", "old/__init__.py"]
)
def test_nothing_is_kept_that_was_made_while_a_file_of_a_program_appeared(name):
    """During the job, and before it: one that the program or a file of its imports."""
    write_whole(Path("mine/fade.py"), "import helper, numpy.random, old")
    write_whole(Path("mine/old.py"), "import deeper")
    files = [Path("mine/fade.py"), Path("mine/old.py")]
    contents = {str(file): content_hash(file) for file in files}
    (entry,) = plan("sft", contents=contents, programs=["mine/fade.py"])
    added = Path("mine", name)
    adds = f"{WRITES}; file = pathlib.Path({str(added)!r})"
    adds += "; file.parent.mkdir(exist_ok=True); file.touch()"
    for program in (adds, "raise SystemExit('was started')"):
        with pytest.raises(UserError, match=f"^{added}, which mine/fade.py imports, was added whi"):
            run(entry, program)
        assert not entry.exists() and not partial(entry).exists()
    added.rename("mine/unused.py")
    if name.startswith("old"):
        added.parent.rmdir()
    assert not run(entry) and is_whole(entry)


def test_nothing_is_kept_that_was_made_while_code_or_packages_changed(monkeypatch, tmp_path):
    """During the job, and before it. A comment changes no result."""
    (entry,) = plan("ffn")
    root = tmp_path / "project"
    for package in ("xft", "workflow_scripts"):
        shutil.copytree(code.ROOT / package, root / package, ignore=NO_BYTECODE)
    monkeypatch.setattr(code, "ROOT", root)
    module = root / "xft/checkpoints/writer.py"
    metadata = tmp_path / "site/vllm-1.0.dist-info/METADATA"
    write_whole(metadata, "Name: vllm\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    jobs = read_plan()
    installed = Installed.now(Code(), ["ffn"])
    write_plan(Store(Path("store")), Path("results"), jobs, asdict(installed))

    vllm = r"the package vllm was changed \(1\.0 to {}\)"
    for file, change, told in (
        (module, "write_text('CHANGED = True')", r"xft/checkpoints/writer\.py was changed"),
        (metadata, "write_text('Name: vllm\\nVersion: 2.0')", vllm.format(r"2\.0")),
        (metadata, "parent.rename('site/gone')", vllm.format("none")),
    ):
        before = file.read_text()
        changes = f"{WRITES}; pathlib.Path({str(file)!r}).{change}"
        for program in (changes, "raise SystemExit('was started')"):
            with pytest.raises(UserError, match=f"^{told} while the workflow ran, so ffn would"):
                run(entry, program)
            assert not entry.exists() and not partial(entry).exists()
        write_whole(file, before)
    module.write_text(module.read_text() + "# a remark\n")
    assert not run(entry) and is_whole(entry)


class TerminalAtItsEnd(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_garbage_is_what_no_results_folder_wants(monkeypatch, capsys):
    old, both = plan("old", "both")
    store = Store(Path("store"))
    log = store.log("old", old.name)
    for file in (old / ENTRY_FILE, both / ENTRY_FILE, log):
        write_whole(file, "{}")
    assert find_unwanted(store) == []
    plan("both")  # the newest plan of this results folder
    plan("old", results="elsewhere")
    assert find_unwanted(store) == []
    shutil.rmtree("elsewhere")
    assert find_unwanted(store) == [old]
    first, second = (store.entry(step, "0" * 16) for step in ("moe_sft", "sft"))
    halves = {partial(first), partial(second)}
    for half in halves:
        half.mkdir(parents=True)
    with claimed(first), claimed(second):  # of jobs that outlived their run
        told = rf"moe_sft is still .* {os.getpid()} .*\nsft is still .* {os.getpid()} .*\nWait "
        with pytest.raises(UserError, match=told):
            gc.main(["store", "--yes"])
        assert old.exists()
    assert set(find_unwanted(store)) == {old, *halves}
    gc.main(["store", "--yes", "--keep-days", "1"])
    assert old.exists() and "Nothing to remove" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UserError, match=r"no terminal.* --yes.* --dry-run"):
        gc.main(["store"])
    assert str(old) not in capsys.readouterr().out  # nothing was looked for
    before = sorted(Path("store").rglob("*"))
    gc.main(["store", "--dry-run"])
    assert f"{old}  old, " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", TerminalAtItsEnd())
    gc.main(["store"])  # Ctrl-D is no
    assert sorted(Path("store").rglob("*")) == before
    Path("results").rename("moved")
    with pytest.raises(UserError, match=r"store served is there, or beside .* into it"):
        gc.main(["store", "--yes"])
    Path("moved").rename("results")
    gc.main(["store", "--yes"])
    assert not old.exists() and not log.exists() and both.exists()
    assert not any(half.exists() for half in halves)


@pytest.mark.parametrize("damaged", ["[1]", "{}", "", '{"results": "results", "jobs": {"a": {}}}'])
def test_a_plan_that_is_damaged_stops_the_collection(damaged):
    (old,), _ = plan("old"), plan("new")
    old.mkdir(parents=True)
    for file in Path("store/plans").iterdir():
        file.write_text(damaged)
        with pytest.raises(UserError, match=f"^{file} is no whole plan of a run. Delete it"):
            gc.main(["store", "--yes"])
        plan("old"), plan("new")  # the same runs again
    gc.main(["store", "--yes"])
    assert not old.exists()


def test_garbage_is_nothing_that_a_moved_project_or_a_renamed_results_folder_shows(capsys):
    """Nor what the unfinished run into a renamed one has made."""
    whole, half = plan("sft", "moe_sft")
    write_whole(whole / "result.txt", "")
    partial(half).mkdir(parents=True)
    (file,) = Path("store/plans").iterdir()
    unfinished = file.with_suffix(".md")
    unfinished.touch()
    lay({"results/sft.txt": f"{whole}/result.txt", "results/summary.md": str(unfinished)})
    Path("results", CONFIG_FILE).write_text(CONFIG_HEAD)
    Path("project").mkdir()
    for path in (file, unfinished):
        os.utime(path, (0, 0))
    for folder in ("store", "results"):
        Path(folder).rename(f"project/{folder}")
    os.chdir("project")
    store = Store(Path("store"))
    assert find_unwanted(store) == []  # the whole project was moved
    Path("results").rename("seed_1")
    gc.main(["store", "--yes"])
    assert "Nothing to remove" in capsys.readouterr().out
    assert Path("seed_1/summary.md").exists()
    plan("other")  # the next configuration takes the name
    assert find_unwanted(store) == []
    shutil.rmtree("seed_1")
    gc.main(["store", "--yes"])
    assert not whole.exists() and not partial(half).exists()
    assert f"{whole}  sft, 0, " in capsys.readouterr().out


def test_removed_entries_free_only_what_no_other_one_links_to():
    """As `ffn` links to the files of the mixture."""
    mixture, ffn = Path("mixture"), Path("ffn")
    write_whole(mixture / "weights", 1000 * "w")
    write_whole(mixture / "config", 10 * "c")
    ffn.mkdir()
    os.link(mixture / "weights", ffn / "weights")
    freed = [disk_bytes(entries) for entries in ([mixture], [ffn], [mixture, ffn])]
    assert freed == [10, 0, 1010]


def test_garbage_is_no_model_that_a_wanted_base_links_to():
    (dense,) = plan("dense", results="round_1")
    (base,) = plan("base", results="round_2")
    weights, link = (entry / "artifact/model.safetensors" for entry in (dense, base))
    write_whole(weights, "")
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(weights, link.parent))
    plan("moe", results="round_1")  # of another value
    assert find_unwanted(Store(Path("store"))) == []
    shutil.rmtree("round_2")
    assert set(find_unwanted(Store(Path("store")))) == {dense, base}


def test_another_store_gives_what_is_undamaged(capsys):
    recipe = Recipe("moe", 1, {}, {})
    theirs, ours = (Store(Path(name)).entry("moe", recipe.digest) for name in ("theirs", "ours"))
    with create_artifact(partial(theirs) / "artifact", "moe") as draft:
        (draft.path / "a.bin").touch()
        os.truncate(draft.path / "a.bin", 2**26 + 1)  # more than is hashed whenever one is opened
    metrics = partial(theirs) / "metrics.jsonl"  # in no manifest
    metrics.write_text("a loss")
    part = SimpleNamespace(entry=ours, step="moe", digest=ours.name, name="moe")
    (Path("theirs") / MARK).touch()

    def taken() -> str | None:
        """Why the artifact is not taken; None if it is."""
        others.take(["theirs"], [part])
        if ours.is_symlink():
            assert (ours / "artifact/a.bin").samefile(theirs / "artifact/a.bin")
            ours.unlink()
            return None
        return capsys.readouterr().err

    assert taken() == ""  # it is not whole
    finish(theirs, Recipe("moe", 2, {}, {}))
    assert "another recipe than its name" in taken()
    theirs.rename(partial(theirs))
    finish(theirs, recipe)
    assert taken() is None
    for file in (theirs / "artifact/a.bin", theirs / "metrics.jsonl"):
        flip_a_bit(file)
        assert re.search(f"moe is not taken from {theirs}: .*{file} was altered", taken())
        flip_a_bit(file)
    ours.symlink_to("gone")  # the store that had it before
    assert taken() is None
    file.unlink()
    assert f"{file} was altered" in taken()
    with pytest.raises(UserError, match="config: stores: theirs/moe is no store"):
        others.check(["theirs", "theirs/moe"])


def test_what_is_remembered_of_a_file_holds_until_it_changes(place, monkeypatch):
    """Also if the new content has the size, the inode and the time of the old one."""
    file, calls = place / "rows.jsonl", []

    def compute(path: Path) -> str:
        calls.append(path)
        return path.read_text()

    def write(text: str) -> None:
        file.write_text(text)
        os.utime(file, (1, 1))
        time.sleep(0.05)  # a tick of the file system's clock

    write("a")
    hashes = FileHashCache(place / "memory.json")
    assert [hashes.of(file, compute) for _ in range(2)] == ["a", "a"]
    assert len(calls) == 2  # it may change again within a tick
    monkeypatch.setattr("xft.store.file_hashes.SETTLED_SECONDS", 0.01)
    assert [hashes.of(file, compute) for _ in range(2)] == ["a", "a"] and len(calls) == 3
    hashes.save()
    hashes = FileHashCache(place / "memory.json")
    assert hashes.of(file, compute) == "a" and len(calls) == 3
    write("b")
    assert hashes.of(file, compute) == "b"


@pytest.mark.parametrize("damaged", ["[1]", "null", "[" * 100_000, '{"content_hash FILE": 1}'])
def test_a_cache_that_is_damaged_starts_empty(place, damaged):
    file, rows = place / "memory.json", place / "rows.jsonl"
    rows.write_text("a")
    file.write_text(damaged.replace("FILE", str(rows)))
    assert FileHashCache(file).of(rows, content_hash) == hashlib.sha256(b"a").hexdigest()


def test_a_large_file_is_known_by_samples(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(bytes(2**20))
    whole = content_hash(file)
    monkeypatch.setattr("xft.store.file_hashes.HASHED_WHOLE", 2**19)
    monkeypatch.setattr("xft.store.file_hashes.SAMPLE_BYTES", 2**8)
    sampled = content_hash(file)
    assert sampled != whole
    flip_a_bit(file)
    assert content_hash(file) != sampled


def test_a_job_without_the_workflow_is_refused(monkeypatch):
    monkeypatch.delenv("XFT_PLAN")
    with pytest.raises(UserError, match="XFT_PLAN names no plan"):
        read_plan()
