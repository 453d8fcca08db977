"""Commands of other software take what `xft export` writes."""

import json
import re

import pytest
from interpreter import python

from xft.evaluation.result import solved_shares
from xft.tools import compare, export

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
        read = compare.read_evaluation(samples.with_name("samples_eval_results.json")).shares
        assert [*read.values()] == solved_shares(result, "plus")
