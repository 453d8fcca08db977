"""macOS, as far as Linux can tell: without Linux's own calls all is imported, and the sandbox is
refused by its name."""

import pytest
from interpreter import python

from xft.common.errors import UserError
from xft.common.system import usable_cpus
from xft.evaluation.call_scoring import CallScorer
from xft.evaluation.forms import load_problems
from xft.evaluation.scorers import find_bubblewrap

AS_MACOS = """
import ctypes, os, sys
{before}
sys.platform = "darwin"
del os.sched_getaffinity
ctypes.CDLL = None
{code}
"""


@pytest.mark.ci
def test_every_module_is_imported(repository):
    """Other packages are imported on Linux."""
    files = [*(repository / "xft").rglob("*.py"), *(repository / "workflow_scripts").glob("*.py")]
    paths = [path.relative_to(repository).with_suffix("") for path in files]
    names = [".".join(path.parts) for path in paths if path.name not in ("driver", "__init__")]
    load = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    before = f"{load}\nfor name in {names}: del sys.modules[name]"
    python("-c", AS_MACOS.format(before=before, code=load))


def test_programs_run_without_the_calls_of_linux(monkeypatch, repository):
    problems = load_problems(str(repository / "resources" / "problems.jsonl")).first(2)
    expected = CallScorer(problems, None, 1).expected()
    monkeypatch.delattr("os.sched_getaffinity")
    assert CallScorer(problems, None, usable_cpus()).expected() == expected


def test_the_sandbox_is_refused(monkeypatch):
    fault = r"needs Linux on x86_64 or aarch64, and this is {}(?s:.*)--sandbox none"
    for name, value, system in (
        ("platform.machine", lambda: "riscv", "linux on riscv"),
        ("sys.platform", "darwin", "darwin"),
    ):
        monkeypatch.setattr(name, value)
        with pytest.raises(UserError, match=fault.format(system)):
            find_bubblewrap()
