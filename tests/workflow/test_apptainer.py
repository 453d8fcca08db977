"""`snakemake --sdm apptainer`, with a program that stands in for Apptainer."""

import os
import shutil
from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.dag.containers import bound_folders, check_image

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
