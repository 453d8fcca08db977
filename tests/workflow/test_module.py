"""Other ways to run: as a module of another workflow, which has a config and a folder of its own;
by `--sdm apptainer`, with a program that stands in for Apptainer; and which rules may ask the hub,
seen by the steps' processes.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from project import QUICK, Project

from xft.common.errors import UserError
from xft.config.steps import STEPS
from xft.dag.containers import bound_folders, check_image

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


def test_its_rules_are_known_and_a_job_that_fails_shows_its_error(
    repository, tmp_path, fork_server
):
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


# Notes the words of a command and the bound folders, and runs the command outside of any container.
PROGRAM = """\
#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit; fi
printf '%s\\n' "${*:1:$#-3}" "$APPTAINER_BIND" > "$NOTES"
exec "${@: -3}"
"""


def test_an_image_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"there is no image {tmp_path / 'xft.sif'}. Build it"):
        check_image()
    Path("xft.sif").touch()
    check_image()


def test_a_job_in_the_image_sees_what_it_reads_and_writes(new_project, tmp_path, monkeypatch):
    """A model of links, as the hub's cache holds it, and results outside of the project."""
    program, notes = tmp_path / "programs" / "apptainer", tmp_path / "notes"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(notes))
    project = new_project("contained")
    cached, far = tmp_path / "models--a--b", tmp_path / "far"
    model, files = cached / "snapshots" / "commit", cached / "blobs"
    shutil.copytree(project.folder / "resources" / "base", files)
    for folder in (model, far):
        folder.mkdir(parents=True)
    for file in files.iterdir():
        (model / file.name).symlink_to(file)
    (project.folder / "xft.sif").touch()
    monkeypatch.setenv("APPTAINER_BIND", "/of/the/user")
    target = str(far / "results" / "base")
    config = {"base": {"model": str(model)}, "results_dir": str(far / "results")}
    config["store"] = str(far / "store")
    done = project.snakemake(target, "--sdm", "apptainer", **config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (far / "results" / "base.manifest.json").is_file()
    words, bound = notes.read_text().splitlines()
    assert words.split()[:3] == ["exec", "--home", str(project.folder)]
    assert words.endswith(" xft.sif")
    assert {*bound.split(",")} == {"/of/the/user", *map(str, (model, files, far))}


def test_a_folder_that_cannot_be_bound_is_named(tmp_path):
    (tmp_path / "a,b").mkdir()
    with pytest.raises(UserError, match="a,b: its name must hold no comma"):
        bound_folders([tmp_path / "a,b" / "model"])


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
