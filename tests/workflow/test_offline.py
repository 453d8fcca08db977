"""Which rules may ask the hub: seen by the steps' processes, in a run of the real Snakefile."""

import re

from xft.config.steps import STEPS

# In place of each step: it makes a folder with its setting. What the steps do is not tested here.
STEP = """
import os, sys
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "offline").write_text(os.environ["HF_HUB_OFFLINE"])
"""
PINNED = {"revision": "0123456789" * 4}
ONLINE = {name for name, step in STEPS.items() if step.online}


def test_the_hub_is_offline_but_for_the_rules_that_fetch(new_project, monkeypatch):
    """Those have the user's own value."""
    project = new_project("offline")
    for step in (project.folder / "workflow_scripts").glob("[a-z]*.py"):
        step.write_text(STEP)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    sources = {"base": {"model": "org/model"} | PINNED, "data": {"train": "org/a.jsonl"} | PINNED}
    project.run("--until", "tokens", **sources)
    store = project.folder / "store"
    found = {path.relative_to(store).parts[0]: path.read_text() for path in store.rglob("offline")}
    assert found == {"base": "0", "fetch_data": "0", "tokens": "1"}


def test_rules_with_network_run_where_snakemake_runs(repository):
    """The machines of a cluster's jobs may have no network."""
    text = "".join(path.read_text() for path in (repository / "rules").glob("*.smk"))
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^rule|\Z)", text, re.MULTILINE | re.DOTALL)
    assert {name for name, body in rules if "    localrule: True\n" in body} > ONLINE
