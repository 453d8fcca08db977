"""Machines that share no disk, and one bucket over HTTP: what is divided, killed, gathered."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import yaml
from buckets import make, s3_bucket

from xft.artifacts.artifact import ENTRY_FILE
from xft.store import others
from xft.store.store import all_faults, is_whole

pytestmark = pytest.mark.slow
PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"
RECIPE = Path(__file__).parents[2] / "recipes" / "machines.yaml"
RATES = yaml.safe_load(RECIPE.read_text())["sweep"]["mixing.learning_rate"]
TRAINED = ["dense", "eval", "validation_loss", "weighted_trained"]


def test_three_machines_divide_a_sweep(new_project, file_hashes, monkeypatch):
    """One of them is killed in a training. Its part is made by another."""

    def machine(name: str, *rates: float, **keys):
        project = new_project(name)
        project.overlay = project.overlay | {"sweep": {"mixing.learning_rate": [*rates]}} | keys
        data = project.overlay["data"] | {"validation_rows": 8}
        project.overlay = project.overlay | {"data": data, "merge": {"keep": "none"}}
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
        third = machine("third", *RATES[1:], **bucket)
        made = third.run()
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
            others.bucket.cache_clear()
            ours = part.at(f"ours{moment}")
            offer = others.Offer([url], [ours])
            offer.fetch([ours] if ours in offer else [])
            assert is_whole(ours.entry) == (ours in offer)  # no entry, or a good one
        assert others.publish(url, part.entry) is None
        for moment in range(10):
            kill_at(moment, TAKE, url, part.at("ours").entry)
            ours = part.at("ours")
            assert not is_whole(ours.entry) or all_faults(ours.entry) == []
        others.bucket.cache_clear()
        others.Offer([url], [ours]).fetch([ours])
        assert file_hashes(ours.entry) == file_hashes(part.entry)


def test_wrong_credentials_and_a_server_that_dies_stop_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    others.say_once.cache_clear()
    parts = [make("eval", number) for number in range(4)]
    with s3_bucket(monkeypatch) as url:
        reset = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        requests.post(reset, data=b"0")  # from now on keys are looked at
        told = others.publish(url, parts[0].entry)
        assert told.startswith(f"{url}: ") and "key" not in told.split()
        assert others.Offer([url], parts).buckets == {}
        requests.post(reset, data=b"1000000000")
        others.bucket.cache_clear()
        others.push(url, others.unpublished(url, parts))
        others.bucket.cache_clear()
        ours = [part.at("ours") for part in parts]
        offer = others.Offer([url], ours)
    offer.fetch(ours)  # the server is away
    assert capsys.readouterr().err.count("The run goes on without it") == 2
    assert not any(is_whole(part.entry) for part in ours)


def test_a_thousand_entries_are_asked_for_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with s3_bucket(monkeypatch) as url:
        bucket = others.bucket(url)
        names = [f"step{number % 4}/{number:016x}" for number in range(1000)]
        bucket.fs.pipe({bucket.named(name, ENTRY_FILE): b"{}" for name in names})
        assert bucket.held(f"step{number}" for number in range(4)) == {*names}
