"""Mistakes in a config, as the real snakemake shows them: one message, and nothing runs."""

import subprocess

import pytest


@pytest.fixture(scope="module")
def project(new_project):
    project = new_project("mistakes")
    (project.folder / "notes").write_text("a file")
    return project


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("results_dir=notes", "config: results_dir = notes: notes is a file, not a folder"),
        ("training=5", "config: training = 5: must be of type object: keys, such as {epochs: ...}"),
        (
            "data={max_length: 2000}",
            "data.max_length = 2000: resources/base takes texts of at most",
        ),
        ("evaluation={datasets: [humanevl]}", "there is no file humanevl: did you mean humaneval?"),
    ],
)
def test_a_mistake_is_one_message(project, setting, message):
    done = subprocess.run(
        [*project.command("--dry-run"), setting],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 1
    assert shown.splitlines()[-1].startswith("config: ") and message in shown
    assert "Traceback" not in shown and "rule " not in shown
    assert not project.results.exists()
