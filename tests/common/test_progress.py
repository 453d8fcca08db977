"""Progress: nothing for short work, lines in a log, a bar on a terminal."""

import os
import re
import subprocess
import sys

import pytest

from xft.common import progress as module
from xft.common.progress import last_progress, progress


def test_a_log_gets_whole_lines_with_the_time_left(capsys, impatient):
    with progress(desc="write", total=7, unit="B") as bar:
        for loss, count in enumerate([3, 1, 1, 2]):
            bar.set_postfix(loss=loss, refresh=False)
            bar.update(count)
    output = capsys.readouterr()
    assert output.out == "" and "\r" not in output.err and "\x1b" not in output.err
    lines = output.err.splitlines()
    counts = dict.fromkeys(line.split(",")[0] for line in lines)
    assert list(counts) == [f"write: {i}/7 B" for i in (0, 3, 4, 5, 7)]
    assert all(re.search(r"\d\d:\d\d elapsed, (\?|\d\d:\d\d) left, ", line) for line in lines)
    assert lines[-1].endswith(", loss=3")


TIME = r"(\d+:)?\d\d:\d\d"


@pytest.mark.parametrize(
    ("desc", "options", "expected"),
    [
        ("tuning: train", {"total": 40}, rf"it 3 of 40, {TIME}"),
        ("read 1/2: a: 9/9 b.jsonl", {"unit": "row"}, r"row 3 of \?, \?"),
        ("hash", {"unit": "B", "unit_scale": True, "total": 3200}, rf"B 3\.00 of 3\.20k, {TIME}"),
    ],
)
def test_the_last_line_of_a_log_is_read_again(capsys, impatient, desc, options, expected):
    """Also beside other lines, and if the description looks like a count."""
    assert last_progress("write: 3/7 rows were bad\n") is None
    with progress(desc=desc, **options) as bar:
        bar.start_t -= 6
        bar.set_postfix(loss=0.5, token="7/24", refresh=False)
        bar.update(3)
        log = capsys.readouterr().err
    told = last_progress(f"{log}a line of another kind: 5/6 things, of no use\n")
    assert re.fullmatch(f"{expected} left, loss=0.5, token=7/24", told)


def test_the_last_line_of_a_log_comes_once(capsys, impatient):
    """Though time passes between the last item and the end of the bar."""
    for total in (2, None):
        with progress(desc="work", total=total) as bar:
            bar.update(2)
            bar.start_t -= 60  # a minute passes
            if total:
                bar.refresh()  # as tqdm does every ten seconds
        lines = capsys.readouterr().err.splitlines()
        assert sum(line.startswith("work: 2/") for line in lines) == 1, lines


def test_the_time_left_is_told_when_more_are_done_than_are_made_at_once(capsys, impatient):
    list(progress(range(9), desc="work", at_once=4))
    lines = capsys.readouterr().err.splitlines()
    told = {line[:9]: ", ? left, " in line for line in lines}
    assert told == {f"work: {n}/9": n < 5 for n in range(10)}
    list(progress(iter(range(3)), desc="read"))  # nobody knows how many there are
    assert ": 3/? it, 00:00 elapsed, ? left, " in capsys.readouterr().err


@pytest.mark.parametrize("job", [None, "weighted_trained/lam~0.75"])
def test_lines_name_the_job_and_by_hand_the_step(capsys, impatient, monkeypatch, job):
    monkeypatch.setattr(module, "_job", "")
    if job:
        monkeypatch.setenv(module.JOB, job)
    module.name_job("weighted_trained")
    job = job or "weighted_trained"
    module.say("going on")
    list(progress(range(2), desc="work"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{job}: going on"
    assert lines[-1].startswith(f"{job}: work: 2/2 it, ")


def test_a_reader_that_has_gone_is_no_error(repository):
    code = "from xft.common.progress import say; say('a'); say('b'); print('the end')"
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=repository, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"the end\n")


def test_a_terminal_gets_a_bar(capsys, impatient, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(progress(range(3), desc="work"))
    output = capsys.readouterr()
    assert output.out == "" and "\rwork: 100%|" in output.err
