"""Attacks on the sandbox, as root and as an ordinary user: each file of tests/hostile is one."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "hostile"
sys.path.append(str(FOLDER))
from run import attacks, expected, programs  # noqa: E402

NOBODY = "65534"


def as_ordinary_user(needed: list[Path], aside: Path) -> list[str]:
    """What to put before a command line so that it runs as nobody, who can reach these folders.

    For that process alone, folders above them that are closed to all but root are covered by ones
    that hold nothing else. aside: an empty folder to move them by.
    """
    closed = {}
    for path in dict.fromkeys(needed):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                closed[path] = parent
                break
    lines = ["set -e"]
    for number, path in enumerate(closed):
        place = shlex.quote(str(aside / str(number)))
        lines += [f"mkdir {place}", f"mount --bind {shlex.quote(str(path))} {place}"]
    for parent in dict.fromkeys(closed.values()):
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(parent))}")
    for number, path in enumerate(closed):
        place, word = shlex.quote(str(aside / str(number))), shlex.quote(str(path))
        lines += [f"mkdir -p {word}", f"mount --bind {place} {word}"]
    user = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all"
    script = "\n".join([*lines, f'{user} "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash"]


ORDINARY = "an ordinary user"


@pytest.fixture(
    scope="module", params=["this user", pytest.param(ORDINARY, marks=pytest.mark.slow)]
)
def outcome(request, bubblewrap, repository, tmp_path_factory) -> dict:
    command = [sys.executable, str(FOLDER / "run.py")]
    if request.param == ORDINARY:
        if os.geteuid() != 0:
            pytest.skip("this user is one")
        if not (shutil.which("unshare") and shutil.which("setpriv")):
            pytest.skip("there are no programs here to become an ordinary user")
        folders = [repository, Path(sys.prefix), Path(sys.base_prefix)]
        command = [*as_ordinary_user(folders, tmp_path_factory.mktemp("aside")), *command]
    environment = os.environ | {"TMPDIR": "/tmp", "HOME": "/tmp"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_attack_gets_what_it_wants_or_changes_the_verdict_on_its_neighbours(outcome):
    wanted = {name: expected(code) for name, code in attacks().items()}
    assert "passed" not in wanted.values()
    assert outcome["statuses"].keys() == wanted.keys()
    late = {name for name, status in outcome["statuses"].items() if status == "timed out"}
    assert outcome["statuses"] == wanted | dict.fromkeys(late, "timed out")  # on a busy machine
    assert set(outcome["neighbours"]) == {"passed"} and len(outcome["neighbours"]) > 10
    wanted = {name: expected(programs()[name]) for name in outcome["programs"]}
    late = {name for name, status in outcome["programs"].items() if status == "timed out"}
    assert outcome["programs"] == wanted | dict.fromkeys(late, "timed out") and wanted
    assert outcome["left"] == []
