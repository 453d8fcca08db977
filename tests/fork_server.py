"""A process that has imported what Snakemake, the steps and the tests import. Each run, and each
process of pytest-xdist, is a fork of it, which saves seconds of imports. It has its own arguments,
folder, environment, output and signals.

tests/forked/python asks for the forks. The server ends with the process that started it.

It is not the server of jobs (`xft/store/forks.py`), which is tested here itself. That one forks
steps alone, and never where a new process would differ. This one forks whole runs, with input and
signals that a client passes on, and accepts the differences that tests need.
"""

import gc
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PYTHON = Path(__file__).parent / "forked" / "python"
IMPORTED_WITH = dict(os.environ)


def start_server(folder: Path, environment: dict[str, str]) -> None:
    """Start the server, with a socket in a folder. All that this process starts can ask it.

    Raises RuntimeError if the server ends before it listens. Its reason is on the error output.
    """
    place = folder / "fork_server"
    words = [sys.executable, __file__, str(place), str(os.getpid())]
    options = {"env": environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
    server = subprocess.Popen(words, **options)
    while not place.exists():
        if server.poll() is not None:
            raise RuntimeError(f"the fork server ended at its start, with {server.returncode}")
        time.sleep(0.05)
    os.environ |= {"FORK_PYTHON": sys.executable, "FORK_SERVER": str(place)}


def serve(place: str, tests: int) -> None:
    """Serve each connection in a fork, until the tests' process ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place + ".new")
    listener.listen(64)
    Path(place + ".new").rename(place)
    import_all()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are not waited for
    tests_end = os.pidfd_open(tests)
    while tests_end not in select.select([listener, tests_end], [], [])[0]:
        client = listener.accept()[0]
        with suppress(BlockingIOError):  # the machine has too many processes: the client is told
            if os.fork() == 0:
                try:
                    listener.close()
                    run_for(client)
                finally:
                    os._exit(0)
        client.close()


def run_for(client: socket.socket) -> None:
    """Run what a client asks for in a fork, with the signals that the client gets. Tell the client
    how the fork ended. A fork whose client is gone is killed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prefix, files, _, _ = socket.recv_fds(client, 4, 3)
    request = json.loads(client.recv(int.from_bytes(prefix, "little"), socket.MSG_WAITALL))
    child = os.fork()
    if child == 0:
        client.close()
        become(files, **request)
    for file in files:
        os.close(file)
    child_end = os.pidfd_open(child)
    while child_end not in select.select([client, child_end], [], [])[0]:
        numbers = b""
        with suppress(ConnectionError):
            numbers = client.recv(16)
        for number in numbers or [signal.SIGKILL]:
            os.kill(child, number)
        if not numbers:
            return
    status = os.waitid(os.P_PID, child, os.WEXITED)
    code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
    client.sendall(code.to_bytes(4, "little", signed=True))


def become(files: list[int], words: list, folder: str, environment: dict, python: str) -> None:
    """Do in this process what `cd folder; python WORDS` does, and end.

    words: -m and a module, or -c and code, and arguments.
    """
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    option, program, *arguments = words
    if program == "snakemake":
        sys.executable = python  # its jobs ask for forks too
    sys.orig_argv = [sys.executable, *words]
    sys.argv = [program if option == "-m" else option, *arguments]
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    if hub_settings(environment) != hub_settings(IMPORTED_WITH):
        for name in ("huggingface_hub.constants", "datasets.config"):
            importlib.reload(sys.modules[name])
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        importlib.import_module("sitecustomize")
    code = 1
    try:
        if option == "-c":
            exec(program, {"__name__": "__main__"})
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        end_process(code)


def hub_settings(environment: dict[str, str]) -> dict[str, str]:
    """What the hub's library reads from the environment as it is imported."""
    return {name: value for name, value in environment.items() if name.startswith("HF_")}


def end_process(code: int) -> None:
    """End as an interpreter does, with what is registered to run at its end."""
    import atexit
    import threading

    with suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def import_all() -> None:
    """What takes long, and reads nothing that differs between the runs."""
    import datasets  # noqa: F401
    import scipy.stats  # noqa: F401
    import smart_open  # noqa: F401
    import snakemake.cli
    import snakemake.report.html_reporter  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    # Where DeepSpeed is installed, accelerate imports it in each training. Its import counts the
    # GPUs, and a fork may have others.
    if shutil.which("nvidia-smi") is None:
        with suppress(ImportError):
            import deepspeed  # noqa: F401


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
