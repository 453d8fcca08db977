"""The container recipes name files that exist, and the Python of envs/."""

import os
import re
import tomllib

import pytest

from tools import write_envs

ROOT = write_envs.ROOT
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "apptainer.def").read_text()


def test_both_recipes_take_the_python_of_the_environments():
    for recipe in (DOCKERFILE, APPTAINER):
        assert re.findall(r"BASE=\S+/python:([\d.]+)-", recipe) == [write_envs.PYTHON]


def test_both_recipes_take_the_same_files_and_those_exist():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line[1:] for line in ignored if line.startswith("!")}
    (section,) = re.findall(r"%files\n(.*?)\n\n", APPTAINER, re.DOTALL)
    pairs = [line.split() for line in section.splitlines()]
    assert taken == {source for source, _ in pairs}
    for source, target in pairs:
        assert (ROOT / source).exists(), source
        assert target == f"/opt/xft/{source}"


@pytest.mark.parametrize("recipe", [DOCKERFILE, APPTAINER], ids=["docker", "apptainer"])
def test_what_a_recipe_runs_is_there(recipe):
    """With the extras that the trainings have in conda's environments."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    trained = project["optional-dependencies"].keys() & set(write_envs.ENVIRONMENTS["training"])
    (extras,) = re.findall(r"--editable \"\.\[(.*?)\]\"", recipe)
    assert trained | {"workflow"} == set(extras.split(",")) != {"workflow"}
    for name in re.findall(r"/opt/xft/(containers/\S+\.sh)", recipe):
        assert os.access(ROOT / name, os.X_OK)
    (pattern,) = re.findall(r"\$\(grep -o '(.*?)' pyproject.toml\)", recipe)
    torch = re.findall(pattern, (ROOT / "pyproject.toml").read_text())
    assert torch == [line for line in project["dependencies"] if line.startswith("torch")]


@pytest.mark.ci
def test_the_image_can_run_the_workflow(new_project, tmp_path):
    """Of a checkout, only what .dockerignore lets through."""
    project = new_project("image")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line[1:].split("/")[0] for line in ignored if line.startswith("!")}
    for path in project.folder.iterdir():
        if path.name not in taken:
            path.rename(tmp_path / path.name)
    planned = project.snakemake("--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
