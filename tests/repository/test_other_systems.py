"""macOS, as far as Linux can tell: without Linux's own calls all is imported, and the sandbox is
refused by its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.evaluation import ground_truth
from xft.evaluation.execution import usable_cpus
from xft.evaluation.problems import load_problems
from xft.evaluation.sandbox import find_bubblewrap

AS_MACOS = """
import ctypes, os
sys.platform = "darwin"
del os.sched_getaffinity
ctypes.CDLL = None
"""


def as_macos(before: str, code: str, folder: Path) -> subprocess.CompletedProcess:
    """A new process that runs code in this folder, where `before` sees Linux still."""
    program = f"import sys\nsys.path.insert(0, '.')\n{before}\n{AS_MACOS}\n{code}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_every_module_is_imported(repository):
    files = [*(repository / "xft").rglob("*.py"), *(repository / "workflow_scripts").glob("*.py")]
    paths = [path.relative_to(repository).with_suffix("") for path in files]
    names = [".".join(path.parts) for path in paths if path.name not in ("runner", "__init__")]
    load = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    others_stay = f"for name in {names}: del sys.modules[name]"

    done = as_macos(f"{load}\n{others_stay}", load, repository)

    assert done.returncode == 0, done.stderr


def test_the_sandbox_is_refused(tmp_path, repository):
    arguments = ["--dataset", "resources/problems.jsonl", "--out", str(tmp_path / "truth")]
    code = "from workflow_scripts import ground_truth\n"
    code += "from xft.cli import running\n"
    code += f"sys.argv[1:] = {arguments}\nrunning.run('ground_truth', ground_truth.main)"

    of_linux = "import sysconfig; sysconfig.get_config_vars()"

    done = as_macos(of_linux, code, repository)

    assert done.returncode != 0
    assert "nothing was run" in done.stderr
    assert "needs Linux on x86_64 or aarch64, and this is darwin on" in done.stderr
    assert "--sandbox none" in done.stderr
    assert "apt install" not in done.stderr
    assert "Traceback" not in done.stderr


def test_programs_run_without_the_calls_of_linux(monkeypatch, repository):
    problems = load_problems(str(repository / "resources" / "problems.jsonl")).first(2)
    expected = ground_truth.compute(problems, sandbox=None, workers=1)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert ground_truth.compute(problems, sandbox=None, workers=usable_cpus()) == expected


def test_the_sandbox_is_refused_where_system_calls_have_other_numbers(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UserError, match=r"nothing was run\.\n.* and this is linux on riscv64"):
        find_bubblewrap()
