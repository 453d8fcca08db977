"""A process that has imported what Snakemake and the steps import. Each run is a fork of it, which
saves seconds of imports, and has its own arguments, folder, environment, output and signals.

tests/forked/python asks for the forks. The server ends with the process of the tests.
"""

import fcntl
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PYTHON = Path(__file__).parent / "forked" / "python"


def start_server(folder: Path, environment: dict[str, str]) -> Path:
    """The socket, in a folder that all processes of the tests know, of the server that serves them
    all. Starts it the first time.
    """
    place = folder / "fork_server"
    with (folder / "fork_server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            tests = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            words = [sys.executable, __file__, str(place), str(tests)]
            subprocess.Popen(words, env=environment, start_new_session=True)
            while not place.exists():
                time.sleep(0.05)
    return place


def serve(place: str, tests: int) -> None:
    """Fork for each connection, until the tests' process ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place + ".new")
    listener.listen(64)
    Path(place + ".new").rename(place)
    import_all()
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, None)
    selector.register(os.pidfd_open(tests), selectors.EVENT_READ, "tests")
    while True:
        for key, _ in selector.select():
            if selector.get_map().get(key.fd) != key:
                continue  # it ended with another one of these
            if key.data is None:
                client = listener.accept()[0]
                if child := start(client, [listener, *open_sockets(selector)]):
                    selector.register(client, selectors.EVENT_READ, child)
                    selector.register(os.pidfd_open(child), selectors.EVENT_READ, client)
            elif key.data == "tests":
                return
            elif isinstance(key.data, int):
                forward(key.fileobj, key.data, selector)
            else:
                finish(key.fd, key.data, selector)


def open_sockets(selector: selectors.BaseSelector) -> list[socket.socket]:
    return [key.fileobj for key in selector.get_map().values() if isinstance(key.data, int)]


def start(client: socket.socket, others: list[socket.socket]) -> int | None:
    """Fork for a client. The child's number, or None where the client is gone."""
    files, child = [], None
    with suppress(ConnectionError):
        prefix, files, _, _ = socket.recv_fds(client, 4, 3)
        length = int.from_bytes(prefix, "little")
        content = client.recv(length, socket.MSG_WAITALL)
        if content and len(content) == length:
            child = os.fork()
            if child == 0:
                for other in (client, *others):
                    other.close()
                become(files, **json.loads(content))
    for file in files:
        os.close(file)
    if child is None:
        client.close()
    return child


def become(
    files: list[int], words: list[str], folder: str, environment: dict[str, str], python: str
) -> None:
    """Do in this process what `cd folder; python words...` does, and end."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    flag, what, *arguments = words
    if what == "snakemake":
        sys.executable = python  # its jobs ask for forks too
    sys.orig_argv = [sys.executable, *words]
    sys.argv = [what if flag == "-m" else "-c", *arguments]
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        importlib.import_module("sitecustomize")
    code = 1
    try:
        if flag == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
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


def forward(client: socket.socket, child: int, selector: selectors.BaseSelector) -> None:
    """Send the child the signals that its client got. Kill it where the client is gone."""
    numbers = b""
    with suppress(ConnectionError):
        numbers = client.recv(16)
    if not numbers:
        selector.unregister(client)
    for number in numbers or [signal.SIGKILL]:
        os.kill(child, number)


def finish(pidfd: int, client: socket.socket, selector: selectors.BaseSelector) -> None:
    """Tell the client how its child ended."""
    selector.unregister(pidfd)
    status = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
    with suppress(KeyError):
        selector.unregister(client)
    with suppress(OSError):
        client.sendall(code.to_bytes(4, "little", signed=True))
    client.close()


def import_all() -> None:
    """What takes long, and reads nothing that differs between the runs."""
    import datasets  # noqa: F401
    import snakemake.cli  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
