"""The workflow as a module of another one, with a config and a folder of its own."""

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


def test_its_rules_are_known_and_a_job_that_fails_shows_its_error(
    repository, tmp_path, fork_server
):
    """All rules are found, since the whole workflow is asked for. Snakemake calls no `onerror` of a
    module, which would show the error at the end.
    """
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(snakefile=repository / "Snakefile"))
    data = QUICK["data"] | {"train": str(repository / "resources" / "instructions.jsonl")}
    config = QUICK | {
        "results_dir": "xft-results",
        "store": "xft-store",
        "base": {"model": str(repository / "resources" / "base")},
        "data": data,
        "evaluation": {"datasets": [str(repository / "resources" / "problems.jsonl")]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"xft": config}))
    mine = Project(tmp_path, {})
    done = mine.snakemake("--until", "xft_tokens", xft={"data": {"max_length": 8}})
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and mine.rules(done) == ["xft_base", "xft_tokens"]
    assert "no row has a response within max_length = 8 tokens" in shown
    assert "Logging error" not in shown and "localrules" not in shown
    assert (mine.folder / "xft-results" / "base.manifest.json").exists()
    assert not (mine.folder / "results").exists() and not (mine.folder / "store").exists()
