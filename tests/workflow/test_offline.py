"""Which rules may ask the hub: seen by the steps' processes, in a run of the real Snakefile."""

import json
import re

# Imported by each step's Python before anything else: it takes down the step and its setting, makes
# what the rule expects, and ends the process. What the steps do is not what is tested here.
PROBE = """
import json, os, sys
from pathlib import Path

words = sys.orig_argv[1:]
if words[:1] == ["-m"] and words[1].startswith("workflow_scripts."):
    seen = {"step": words[1].split(".")[1], "offline": os.environ.get("HF_HUB_OFFLINE")}
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(seen) + "\\n")
    made = {Path(w) for flag, w in zip(words, words[1:]) if flag in ("--metrics", "--report")}
    (out,) = (Path(word) for flag, word in zip(words, words[1:]) if flag == "--out")
    folder = out.suffix in ("", ".75")
    made |= {Path(f"{out}.manifest.json"), out.with_suffix(".generations.jsonl")}
    beside = ("summary.md", "comparisons.csv", "figures.manifest.json", "figures/a.svg")
    made |= {out.parent / name for name in beside}
    made |= set() if folder else {out}
    if folder:
        out.mkdir(parents=True)
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os._exit(0)
"""
REVISION = "0123456789" * 4
ONLINE = {"base", "fetch_data", "fetch_problems"}
CONFIG = {
    "base": {"model": "org/model", "revision": REVISION},
    "data": {"train": "org/rows/a.jsonl", "revision": REVISION, "validation_rows": 8},
    "evaluation": {
        "models": ["base", "moe_sft", "sft", "uniform", "dense"],
        "datasets": ["humaneval"],
    },
    "merge": {"keep": "best"},
}


def test_the_hub_is_offline_but_for_the_rules_that_fetch(new_project, monkeypatch):
    """Those have the user's own value."""
    project = new_project("offline")
    (project.folder / "sitecustomize.py").write_text(PROBE)
    monkeypatch.setenv("SEEN", str(project.folder / "seen.jsonl"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    project.run(**CONFIG)
    lines = (project.folder / "seen.jsonl").read_text().splitlines()
    seen = [(line["step"], line["offline"]) for line in map(json.loads, lines)]
    steps = {step for step, _ in seen}
    assert steps >= ONLINE | {"moe", "tokens", "sft", "eval", "validation_loss", "best", "summary"}
    assert {step: offline for step, offline in seen if step in ONLINE} == dict.fromkeys(ONLINE, "0")
    assert {offline for step, offline in seen if step not in ONLINE} == {"1"}


def test_rules_with_network_run_where_snakemake_runs(repository):
    """The machines of a cluster's jobs may have no network."""
    text = "".join(path.read_text() for path in (repository / "rules").glob("*.smk"))
    online = set(re.findall(r'"online stored {output:q} python -m workflow_scripts\.(\w+) ', text))
    local = re.search(r"localrules:\n((?:    \w+,\n)+)", (repository / "Snakefile").read_text())
    assert online == ONLINE
    assert online <= set(re.findall(r"\w+", local[1]))
