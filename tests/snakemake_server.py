"""Snakemake, imported once: each run is a fork of this process, which saves seconds of imports.

A run has its own arguments, folder, environment and output, and ends as a process does.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Server:
    """The process that runs this file."""

    def __init__(self):
        self.start()
        atexit.register(self.stop)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(
        self, words: list[str], folder: Path, environment: dict[str, str], scratch: Path
    ) -> subprocess.CompletedProcess:
        """Run snakemake with these arguments. scratch: a folder for what it prints."""
        files = [scratch / "stdout", scratch / "stderr"]
        request = {"words": words, "folder": str(folder), "environment": environment}
        try:
            self.process.stdin.write(json.dumps(request | {"files": list(map(str, files))}) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
        except BaseException:  # a test that is stopped: its run must not answer the next test
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.start()
            raise
        out, error = (file.read_text() for file in files)
        return subprocess.CompletedProcess(words, code, out, error)


def serve() -> None:
    from snakemake.cli import main

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(**json.loads(line))
            sys.exit(main())
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(words: list[str], folder: str, environment: dict[str, str], files: list[str]) -> None:
    """Give this process what `cd folder; python -m snakemake ...` has."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["snakemake", *words]
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)


if __name__ == "__main__":
    serve()
