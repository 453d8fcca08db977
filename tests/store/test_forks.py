"""Jobs as forks of a process that has imported once: when they are, and what ends them.

The torch of these tests knows no question but whether CUDA was used before a fork.
"""

import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from xft.config.steps import STEPS
from xft.store import forks

TORCH = """import os
class cuda: _is_in_bad_fork = lambda: os.path.exists("used")
seed = lambda: None
set_num_threads = lambda number: globals().update(threads=number)"""
STEP = """import os, sys, time
print(sys.argv[1], os.getpgrp(), sys.modules["torch"].threads, flush=True)
while os.path.exists("waits"): time.sleep(0.05)
sys.exit(3)"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what they need")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, in a folder with a step and a torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    Path("torch.py").write_text(TORCH)
    Path("dense.py").write_text(STEP)
    monkeypatch.delenv(forks.SOCKET)
    with forks.start_server(dict(os.environ)) as program:
        yield program


def ask(**environment: str) -> forks.Fork | forks.NewProcess:
    """A job, which writes into the file `log`."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"} | environment
    del environment["PYTEST_CURRENT_TEST"]  # it was another one
    with Path("log").open("wb") as log:
        words, file = ["python", "-m", "dense", "--lam"], log.fileno()
        return forks.start(words, environment, file, file)


def start(**environment: str) -> forks.Fork | forks.NewProcess:
    """A job. If it is a fork, its step has begun."""
    job = ask(**environment)
    while isinstance(job, forks.Fork) and not Path("log").stat().st_size:
        time.sleep(0.05)
    return job


def is_process(**environment: str) -> bool:
    with start(**environment) as job:
        return isinstance(job, forks.NewProcess)


def test_each_step_says_what_it_imports():
    """Else its jobs would never be forks, and nobody would notice."""
    assert forks.IMPORTS.keys() == STEPS.keys()


def test_a_fork_ends_as_a_process_and_whoever_is_killed(server):
    Path("waits").touch()
    with start() as job:
        assert isinstance(job, forks.Fork)
        status = Path(f"/proc/{job.pid}/stat").read_text()
        os.kill(int(status.rpartition(") ")[2].split()[1]), signal.SIGKILL)  # its keeper
        assert job.wait() == -signal.SIGKILL and job.used == []
    while Path(f"/proc/{job.pid}").exists():
        time.sleep(0.05)
    with start() as job:
        server.kill(), server.wait()
        Path("waits").unlink()
        assert job.wait() == 3 and min(job.used) > 0
    assert Path("log").read_text() == f"--lam {os.getpgrp()} 2\n" and is_process()


def test_what_a_fork_would_have_otherwise_makes_a_new_process(server):
    Path("dense.py").write_text("import os; print(flush=True); os.kill(os.getpid(), 9)")
    with start() as job:
        assert job.wait() == -signal.SIGKILL and min(job.used) > 0
    assert is_process(OMP_WAIT_POLICY="ACTIVE")
    assert is_process(MKL_NUM_THREADS="1")  # torch's products would have as many, and not two
    mask = os.umask(0o27)
    assert is_process()
    os.umask(mask)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    assert is_process()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    Path("used").touch()
    assert is_process()
    Path("used").unlink()
    assert not is_process(CUDA_VISIBLE_DEVICES="1")


def test_a_server_that_has_stopped_is_waited_for_once(server, monkeypatch):
    """All jobs of the run from then on are new processes, and no fork of it begins later."""
    Path("dense.py").write_text("open('ran', 'a').write('x'); print(flush=True)")
    with start() as job:
        assert isinstance(job, forks.Fork)
    server.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
    monkeypatch.setattr(forks, "SILENCE", 0.5)
    assert is_process()
    assert server.wait(60) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        forks.ask_for_fork("dense", [], {}, 0, 0)
    assert is_process()
    assert Path("ran").read_text() == 3 * "x"


def test_a_server_that_works_is_waited_for(server, monkeypatch):
    """Such as one that imports for another job."""
    work = "import time\nwhile time.process_time() < 1.2: pass\n"
    Path("torch.py").write_text(work + TORCH)
    monkeypatch.setattr(forks, "SILENCE", 0.5)
    assert not is_process()
    monkeypatch.setattr(forks, "PATIENCE", 0)
    assert is_process()


def test_a_silent_client_holds_up_no_job(server):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(os.environ[forks.SOCKET])
        assert not is_process()


def test_a_fork_whose_client_has_given_up_does_nothing(server, monkeypatch):
    """A new process has taken its place."""
    Path("dense.py").write_text("open('ran', 'a').close()")
    monkeypatch.setattr(forks, "BEGIN", b"")  # what is read from a client that has gone
    with ask() as job:
        assert isinstance(job, forks.Fork) and job.wait() == 1
    assert not Path("ran").exists()
