"""Commands of other software take what `xft export` writes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from interpreter import python

from xft.tools import export

pytestmark = pytest.mark.slow


def test_evalplus_gives_the_same_scores(finished, repository, tmp_path, monkeypatch):
    lines = (repository / "resources" / "problems.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "set.jsonl").write_text("".join(lines[:4]))
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH", str(tmp_path / "set.jsonl"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export.main([str(finished.results), "--to", "evalplus", "--out", str(tmp_path / "out")])
    for model in ("base", "moe_sft"):
        samples = tmp_path / "out" / model / "problems" / "samples.jsonl"
        words = ["--dataset", "humaneval", "--samples", samples]
        told = python("-m", "evalplus.evaluate", *words).stdout
        theirs = [float(value) for value in re.findall(r"pass@1:\t([\d.]+)", told)]
        result = json.loads((finished.results / "eval" / model / "problems.json").read_text())
        assert theirs == [round(score, 3) for score in result["pass@1"].values()]


def test_every_eval_ever_accepts_the_records(finished, tmp_path, monkeypatch):
    names = filter(shutil.which, ("python3.12", "python3.13", "python3.14"))
    # A name of pyenv's may have no Python behind it.
    runs = [name for name in names if subprocess.run([name, "--version"]).returncode == 0]
    if not runs:
        pytest.skip("every-eval-ever needs Python 3.12 or later, which is not on this machine")
    own = tmp_path / "venv" / "bin"
    python("-m", "venv", own.parent, program=runs[0])
    python("install", "--quiet", "every-eval-ever==0.3.0", program=own / "pip")
    export.main([str(finished.results), "--to", "every-eval-ever", "--out", str(tmp_path / "out")])
    monkeypatch.chdir(tmp_path / "out")  # its paths begin with data/
    files = sorted(Path("data").rglob("*.json*"))
    assert len(files) == 6
    told = python("validate", "--format", "json", *files, program=own / "every_eval_ever").stdout
    assert [report["valid"] for report in json.loads(told)] == [True] * len(files)
