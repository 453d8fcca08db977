"""The workflow as a module of another one, with a config and a folder of its own."""

import pytest
import yaml
from project import QUICK, Project

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


@pytest.fixture(scope="module")
def mine(repository, tmp_path_factory, fork_server) -> Project:
    """A project of the user's own that takes the rules from here."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "Snakefile").write_text(SNAKEFILE.format(snakefile=repository / "Snakefile"))
    data = QUICK["data"] | {"train": str(repository / "resources" / "instructions.jsonl")}
    config = QUICK | {
        "results_dir": "xft-results",
        "store": "xft-store",
        "base": {"model": str(repository / "resources" / "base")},
        "data": data,
        "evaluation": {"datasets": [str(repository / "resources" / "problems.jsonl")]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"xft": config}))
    return Project(folder, {})


def test_its_rules_are_known(mine):
    """All of them are found, since the whole workflow is asked for."""
    done = mine.snakemake("--dry-run")
    shown = done.stdout + done.stderr
    assert done.returncode == 0 and "xft_report: report.html (xft-store/report/" in shown
    assert "Logging error" not in shown and "localrules" not in shown


def test_a_job_that_fails_shows_its_error(mine):
    """Snakemake calls no `onerror` of a module, which would show it at the end."""
    words = "--keep-going", "--until", "xft_moe", "xft_tokens"
    done = mine.snakemake(*words, xft={"data": {"max_length": 8}})
    assert done.returncode == 1 and mine.rules(done) == ["xft_base", "xft_moe", "xft_tokens"]
    assert "no row has a response within max_length = 8 tokens" in done.stdout + done.stderr
    assert (mine.folder / "xft-results" / "moe.manifest.json").exists()
    assert not (mine.folder / "results").exists() and not (mine.folder / "store").exists()
