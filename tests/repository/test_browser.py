"""What `.ci/run` does about the browser of the report's tests, with stand-ins for the system."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT, USER = "echo 0", "echo 1000"
# Programs of the system, each with what it does; and what is said if Chromium stays missing.
SYSTEMS = {
    "there is one": ({"google-chrome": "", "id": ROOT, "apt-get": "exit 1"}, ""),
    "root": ({"id": ROOT, "apt-get": 'echo "$@" >> calls'}, ""),
    "a user": ({"id": USER, "apt-get": 'echo "$@" >> calls'}, "only root can install it"),
    "without apt-get": ({"id": ROOT}, "there is no apt-get"),
    "without a network": ({"id": ROOT, "apt-get": "exit 100"}, "apt-get could not install it"),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_chromium_is_installed_where_it_can_be_and_else_its_absence_is_told(
    system, repository, tmp_path
):
    programs, said = SYSTEMS[system]
    for name, action in programs.items():
        file = tmp_path / name
        file.write_text(f"#!{shutil.which('bash')}\n{action}\n")
        file.chmod(0o755)
    script = str(repository / ".ci" / "install_chromium")
    options = {"cwd": tmp_path, "env": {"PATH": str(tmp_path)}, "capture_output": True}
    ran = subprocess.run([shutil.which("bash"), script], text=True, **options)
    assert ran.returncode == 0
    assert (said in ran.stderr) and (not said) == ("skipped" not in ran.stderr)
    calls = Path(tmp_path, "calls")
    installs = calls.exists() and "chromium" in calls.read_text().splitlines()[-1].split()
    assert installs == (system == "root")


def test_a_change_is_checked_with_the_browser(repository):
    """It is installed before the tests, which look for it as they are collected."""
    commands = (repository / ".ci" / "run").read_text().splitlines()
    assert commands.index(".ci/install_chromium") < commands.index("make test")
