"""Machines that share no disk, and one bucket over HTTP: what is divided, killed, gathered."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Semaphore

import pytest
import requests
import yaml
from buckets import fetch, make, s3_bucket
from documents import ROOT, blocks

from xft.artifacts.artifact import ENTRY_FILE
from xft.store import others
from xft.store import server as servers
from xft.store.store import all_faults, is_whole

pytestmark = pytest.mark.slow
PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"
(KEYS,) = [block.text for block in blocks(ROOT / "docs" / "sharing.md") if block.language == "yaml"]
RATES = yaml.safe_load(KEYS)["sweep"]["mixing.learning_rate"]
TRAINED = ["dense", "eval", "validation_loss", "weighted_trained"]


def test_three_machines_divide_a_sweep(new_project, file_hashes, monkeypatch):
    """One of them is killed in a training. Its part is made by another."""

    def machine(name: str, *rates: float, **keys):
        project = new_project(name)
        keys |= {"sweep": {"mixing.learning_rate": [*rates]}, "merge": {"keep": "none"}}
        data = project.overlay["data"] | {"validation_rows": 8}
        project.overlay = project.overlay | {"data": data} | keys
        return project

    with s3_bucket(monkeypatch) as url:
        bucket = {"stores": [url], "publish": url}
        assert len(machine("first", RATES[0], **bucket).run()) > 10
        killed = machine("killed", RATES[1], **bucket)
        shutil.copy(PAUSE, killed.folder)
        (killed.folder / "pause").write_text("weighted_trained 2")
        monkeypatch.setenv("PAUSE", str(killed.folder / "pause"))
        running = killed.start(killed.folder / "said")
        while not (killed.folder / "waits").exists():
            assert running.poll() is None, (killed.folder / "said").read_text()
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        monkeypatch.delenv("PAUSE")
        made = machine("third", *RATES[1:], **bucket).run()
        assert sorted({*made} - {"summary", "report", "base", "ffn"}) == TRAINED
        gathering = machine("gathering", *RATES, stores=[url])
        assert gathering.run() == ["report", "summary"]
        assert not list(gathering.folder.glob("store/moe_sft/*"))
    alone = machine("alone", *RATES)
    alone.run()
    for name in ("summary.csv", "comparisons.csv", "figures"):
        places = (alone.results / name, gathering.results / name)
        one, other = (file_hashes(p) if p.is_dir() else p.read_bytes() for p in places)
        assert one == other, name


WORK = """import sys
from pathlib import Path
from buckets import Part
from xft.store import others, remote
url, entry = sys.argv[1], Path(sys.argv[2])
print("begins", flush=True)
"""
SEND = f"{WORK}sys.exit(others.publish(url, entry))"
TAKE = f"{WORK}others.Offer([url], [Part(entry)]).fetch([Part(entry)])"


def kill_at(moment: int, code: str, *words: object) -> None:
    """Kill a process a while after its work began, later with each moment."""
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05 * 1.5**moment)
        process.kill()


def test_twenty_kills_leave_no_half_entries(tmp_path, monkeypatch, repository, file_hashes):
    """Of uploads, then of downloads. Each goes on where the one before it stopped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{repository}/tests")
    part = make("moe", 1, 30_000_000)
    with s3_bucket(monkeypatch) as url:
        for moment in range(10):
            kill_at(moment, SEND, url, part.entry)
            (ours,) = fetch(url, part, store=f"ours{moment}")
            is_there = part.name in others.bucket(url).held([part.step])
            assert is_whole(ours.entry) == is_there  # no entry, or a good one
        assert others.publish(url, part.entry) is None
        for moment in range(10):
            ours = part.at("ours")
            kill_at(moment, TAKE, url, ours.entry)
            assert not is_whole(ours.entry) or all_faults(ours.entry) == []
        fetch(url, part)
        assert file_hashes(ours.entry) == file_hashes(part.entry)


def test_wrong_credentials_and_a_server_that_never_answers(tmp_path, monkeypatch, capsys):
    """They stop nothing. A file that lasts is waited for while the server answers. In the end the
    server stops in the middle of a file.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    monkeypatch.chdir(tmp_path)
    others.say_once.cache_clear()
    parts = [make("moe", number, 100_000) for number in range(3)]
    asked, stopped, over = Semaphore(0), Event(), Event()
    call = DomainDispatcherApplication.__call__

    def answer(app, environ, start):
        if stopped.is_set():
            over.wait()
        content = b"".join(call(app, environ, start))
        if servers.NOTHING in environ["QUERY_STRING"]:
            asked.release()
        yield content[:9]
        if len(content) >= 100_000:
            hold()
        yield content[9:]

    def stop():
        stopped.set()
        over.wait()

    with s3_bucket(monkeypatch) as url:
        reset = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        requests.post(reset, data=b"0")  # from now on keys are looked at
        told = others.publish(url, parts[0].entry)
        assert told.startswith(f"{url}: ") and "key" not in told.split()
        assert not is_whole(fetch(url, parts[0])[0].entry)
        requests.post(reset, data=b"1000000000")
        others.bucket.cache_clear()
        others.push(url, others.unpublished(url, parts))
        monkeypatch.setattr(DomainDispatcherApplication, "__call__", answer)
        monkeypatch.setattr(servers, "SILENT", 0.2)
        hold = asked.acquire
        assert all(is_whole(part.entry) for part in fetch(url, *parts))
        monkeypatch.setattr(servers, "PATIENCE", 0.1)
        hold = stop
        assert not any(is_whole(part.entry) for part in fetch(url, *parts, store="others"))
        stopped.set()
        others.bucket.cache_clear()
        silent = f"{url}: the server does not answer"
        assert others.publish(url, parts[0].entry) == silent
        over.set()
    said = capsys.readouterr().err
    assert said.count(f"{silent}. The run") == 1 and said.count("The run goes on without it") == 2


def test_a_thousand_entries_are_asked_for_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with s3_bucket(monkeypatch) as url:
        bucket = others.bucket(url)
        names = [f"step{number % 4}/{number:016x}" for number in range(1000)]
        bucket.server.fs.pipe({bucket.server.named(name, ENTRY_FILE): b"{}" for name in names})
        assert bucket.held(f"step{number}" for number in range(4)) == {*names}
