"""Each recipe as a dry run of the whole workflow, alone and under a config file of the user's."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

# All but the two demonstrations, one of which other tests run, and what lies over other configs.
OTHERS = ("embedded", "embedded-large", "ablations", "regimes", "little_data", "low_rank")
FILES = (Path(__file__).parents[2] / "recipes").glob("*.yaml")
RECIPES = sorted(file.name for file in FILES if file.stem not in OTHERS)


@pytest.fixture(scope="module")
def project(new_project):
    """A project with stand-ins for the models and rows that recipes take from folders."""
    project = new_project("recipes")
    project.overlay = {}
    for name in RECIPES:
        config = yaml.safe_load((project.folder / "recipes" / name).read_text())
        if "revision" not in config["base"]:
            model = project.folder / config["base"]["model"]
            shutil.copytree(project.folder / "resources" / "base", model)
            settings = json.loads((model / "config.json").read_text())
            settings["max_position_embeddings"] = 2**14  # as real models have
            (model / "config.json").write_text(json.dumps(settings))
        if "revision" not in config["data"]:
            rows = project.folder / config["data"]["train"]
            rows.parent.mkdir(exist_ok=True)
            rows.write_text('{"instruction": "a", "response": "b"}\n' * 20_001)  # for any warm-up
    return project


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_whole_workflow(project, name):
    done = project.snakemake("--dry-run", "--configfile", f"recipes/{name}")
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    config = yaml.safe_load((project.folder / "recipes" / name).read_text())
    for model in config["evaluation"].get("models", ["base", "moe_sft", "dense"]):
        assert re.search(rf"eval: eval/{model}/(lam~0\.75/|humaneval\.json )", text), model


@pytest.mark.ci
def test_a_recipe_goes_with_ones_own_file(project):
    (project.folder / "mine.yaml").write_text(
        "merge: {lambdas: [0.5]}\nresults_dir: results/mine\n"
    )
    files = ["recipes/qwen2.5-coder-0.5b.yaml", "mine.yaml"]
    done = project.snakemake("--dry-run", "--printshellcmds", "--configfile", *files)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "dense: dense/lam~0.5 (" in text and "lam~0.75" not in text
    assert "Qwen/Qwen2.5-Coder-0.5B" in text


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("ablations", {"moe_sft": 22, "dense": 20, "sft": 2, "tokens": 1}),
        ("regimes", {"moe_sft": 10, "dense": 20, "sft": 20, "tokens": 2}),
        ("low_rank", {"moe_sft": 2, "dense": 4, "sft": 2, "eval": 9}),
        ("little_data", {"moe_sft": 16, "sft": 6, "weighted_trained": 18, "dense": 22, "heal": 4}),
    ],
)
def test_a_recipe_lies_over_any_config(project, name, jobs):
    embedded = (project.folder / "recipes" / "embedded-large.yaml").read_text()
    (project.folder / "mine.yaml").write_text(embedded)
    files = ["mine.yaml", f"recipes/{name}.yaml"]
    done = project.snakemake("--dry-run", "--configfile", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = Counter(project.rules(done))
    assert {rule: ran[rule] for rule in jobs} == jobs
