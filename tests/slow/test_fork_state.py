"""What a new process decides at its start, a fork of the server decides too, with real packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xft.store import forks

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has forks of jobs"),
]

STEP = """
import ctypes, json, os, random, signal, sys, tempfile
variables = dict(os.environ)  # imports may add some
import numpy, torch, transformers.trainer
blas = ctypes.CDLL(numpy._core._multiarray_umath.__file__)
read = getattr(blas, "scipy_openblas_get_num_threads64_", lambda: None)
same = {
    "threads of torch": torch.get_num_threads(),
    "threads of torch's libraries": torch.__config__.parallel_info(),
    "threads of numpy": read(),
    "variables": variables,
    "folder": os.getcwd(),
    "temporary folder": tempfile.gettempdir(),
    "words": sys.argv[1:],
    "path": sys.path,
    "handlers": [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "default dtype": str(torch.get_default_dtype()),
}
drawn = {
    "random": random.random(),
    "numpy": numpy.random.random(),
    "torch": torch.rand(1, dtype=torch.float64).item(),
}
print(json.dumps([same, drawn]), flush=True)
"""


def test_a_fork_starts_as_a_new_process(tmp_path, monkeypatch):
    """With one and with two threads. Two forks and a process draw other random numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv(forks.SOCKET, raising=False)
    monkeypatch.setattr(forks, "PATIENCE", 600)  # the imports may take long
    Path("sft.py").write_text(STEP)  # the step with most imports
    command = ["python", "-m", "sft", "--lam", "0.75"]
    with forks.start_server(os.environ | {"XFT_SERVER": "has a variable more"}):
        for threads in ("1", "2"):
            names = ("OMP", "MKL", "OPENBLAS")
            environment = os.environ | {f"{name}_NUM_THREADS": threads for name in names}
            environment["TMPDIR"] = str(tmp_path)  # the server has used another one
            del environment["PYTEST_CURRENT_TEST"]  # the server had another one
            states = []
            for _ in range(2):
                with Path("log").open("wb") as log:
                    job = forks.start(command, environment, log.fileno(), log.fileno())
                    assert isinstance(job, forks.Fork)
                    assert job.wait() == 0
                states.append(json.loads(Path("log").read_text()))
            process = subprocess.run(
                [sys.executable, *command[1:]],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            states.append(json.loads(process.stdout))
            of_forks, of_process = states[:2], states[2]
            for same, _ in of_forks:
                assert same == of_process[0]
            for source in of_process[1]:
                assert len({drawn[source] for _, drawn in states}) == 3, source
