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
        "base": {"model": str(repository / "resources" / "base")},
        "data": data,
        "evaluation": {"datasets": [str(repository / "resources" / "problems.jsonl")]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"xft": config}))
    return Project(folder, {})


def test_all_rules_are_there(mine):
    rules = mine.run("--dry-run", "--forceall")
    assert {"xft_base", "xft_moe_sft", "xft_weighted_trained", "xft_dense"} <= set(rules)
    assert not any(rule for rule in rules if not rule.startswith("xft_"))


def test_its_steps_run(mine):
    target = "xft-results/moe.manifest.json"
    assert mine.run(target) == ["xft_base", "xft_moe"]
    assert mine.run(target) == []
    assert not (mine.folder / "results").exists()


def test_a_fault_of_the_config_names_the_key(mine, tmp_path):
    config = yaml.safe_load((mine.folder / "config.yaml").read_text())
    config["xft"]["moe"]["num_experts"] = 1
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    done = mine.snakemake("--dry-run", "--configfile", str(tmp_path / "bad.yaml"))
    assert done.returncode != 0
    assert "moe.num_experts = 1: must be at least 2" in done.stdout + done.stderr
