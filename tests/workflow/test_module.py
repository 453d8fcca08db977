"""Other ways to run: as a module of another workflow, which has a config and a folder of its own;
and which rules may ask the hub, seen by the steps' processes.
"""

import re
from collections.abc import Callable

import pytest
import yaml
from project import QUICK, Project

from xft.dag.step_jobs import STEP_JOBS

SNAKEFILE = """
configfile: "config.yaml"

module xft:
    snakefile: "{snakefile}"
    config: config["xft"]

use rule * from xft as xft_*

rule all:
    default_target: True
    input:
        rules.xft_all.input,
"""


def test_its_rules_are_known_and_a_failing_job_shows_its_error(repository, tmp_path, fork_server):
    """All rules are found, since the whole workflow is asked for. Snakemake calls no `onerror` of a
    module, which would show the error at the end.
    """
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(snakefile=repository / "Snakefile"))
    given = repository / "resources"
    config = QUICK | {"results_dir": "xft-results", "store": "xft-store"}
    config |= {"data": QUICK["data"] | {"train": str(given / "instructions.jsonl")}}
    config |= {"base": {"model": str(given / "base")}}
    config |= {"evaluation": {"datasets": [str(given / "problems.jsonl")]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"xft": config}))
    mine = Project(tmp_path, {})
    done = mine.snakemake("--until", "xft_tokens", xft={"data": {"max_length": 8}})
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and mine.rules(done) == ["xft_base", "xft_tokens"]
    assert "no row has a response within max_length = 8 tokens" in shown
    assert "Logging error" not in shown and "localrules" not in shown
    assert (mine.folder / "xft-results" / "base.manifest.json").exists()
    assert not (mine.folder / "results").exists() and not (mine.folder / "store").exists()


# In place of each step: it makes a folder with its settings. What the steps do is not tested here.
# An interpreter in no virtual environment says whether it would import packages of the user's.
STEP = """
import os, subprocess, sys
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "offline").write_text(os.environ["HF_HUB_OFFLINE"])
python = [f"{sys.base_prefix}/bin/python3", "-c", "import site; print(site.ENABLE_USER_SITE)"]
(out / "user_site").write_text(subprocess.run(python, capture_output=True, text=True).stdout)
"""
PINNED = {"revision": "0123456789" * 4}
ONLINE = {step for step, job in STEP_JOBS.items() if job.online}


@pytest.fixture(scope="module")
def settings(new_project) -> Callable[[str], dict[str, str]]:
    """Callable (name): a setting of the process of each step."""
    project = new_project("settings")
    for step in (project.folder / "workflow_scripts").glob("[a-z]*.py"):
        step.write_text(STEP)
    sources = {"base": {"model": "org/model"} | PINNED, "data": {"train": "org/a.jsonl"} | PINNED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.delenv("PYTHONNOUSERSITE", raising=False)
        project.run("--until", "tokens", **sources)
    store = project.folder / "store"

    def found(name: str) -> dict[str, str]:
        return {file.relative_to(store).parts[0]: file.read_text() for file in store.rglob(name)}

    return found


def test_the_hub_is_offline_but_for_the_rules_that_fetch(settings):
    """Those have the user's own value."""
    assert settings("offline") == {"base": "0", "fetch_data": "0", "tokens": "1"}


def test_no_job_imports_packages_from_the_users_home(settings):
    """~/.local may hold other versions than the environment, which a recipe does not know."""
    assert settings("user_site") == dict.fromkeys(("base", "fetch_data", "tokens"), "False\n")


def test_rules_with_network_run_where_snakemake_runs(repository):
    """The machines of a cluster's jobs may have no network."""
    text = "".join(path.read_text() for path in (repository / "rules").glob("*.smk"))
    rules = re.findall(r"^rule (\w+):\n(.*?)(?=^rule|\Z)", text, re.MULTILINE | re.DOTALL)
    assert {name for name, body in rules if "    localrule: True\n" in body} > ONLINE
