"""Takes GPUs of this machine for a step, so that steps side by side compute on different ones.

A taken GPU is a socket with a name in Linux's abstract namespace. Only one process can hold it. The
system frees it when that process ends, also if it is killed. No file is left behind.

`python -m xft.common.gpus COUNT COMMAND...` takes GPUs for a command.
"""

import errno
import os
import socket
import subprocess
import sys
import time

from xft.common.progress import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_TRIES = 1
SECONDS_TO_LIST = 60  # a broken driver may never answer

_taken: list[socket.socket] = []  # until this process ends


def take_gpus(count: int) -> None:
    """Let this process and those that it starts see only `count` GPUs that no other step has taken.

    Waits until so many are free. It must run before the process first uses CUDA. Without
    nvidia-smi, or with fewer GPUs, nothing is taken, and all GPUs stay visible.
    """
    gpus = _visible_gpus()
    if not 0 < count <= len(gpus):
        return
    if not (taken := _take(gpus, count)):
        say(f"waiting for {count} of {len(gpus)} GPUs: other steps have taken them")
    while not taken:
        time.sleep(SECONDS_BETWEEN_TRIES)
        taken = _take(gpus, count)
    _taken.extend(taken.values())
    if VISIBLE not in os.environ:
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    os.environ[VISIBLE] = ",".join(taken)
    say(f"GPU {os.environ[VISIBLE]} of this machine")


def find_gpu() -> tuple[float, str] | None:
    """The memory in GiB and the name of the smallest visible GPU; None without a GPU."""
    identities = ",".join(_visible_gpus().values())
    rows = _ask("memory.total,name", f"--id={identities}") if identities else []
    known = [row.split(", ", 1) for row in rows if row[:1].isdigit()]  # some GPUs do not say
    return min(((float(memory) / 1024, name) for memory, name in known), default=None)


def _visible_gpus() -> dict[str, str]:
    """The identity of each visible GPU, by its name in CUDA_VISIBLE_DEVICES."""
    by_number = {str(number): uuid for number, uuid in enumerate(_ask("uuid"))}
    if VISIBLE not in os.environ:
        return by_number
    names = [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    return {name: by_number.get(name, name) for name in names}


def _ask(fields: str, *options: str) -> list[str]:
    """nvidia-smi's line about each GPU; none if there is no nvidia-smi, or if it fails."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", *options]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SECONDS_TO_LIST
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def _take(gpus: dict[str, str], count: int) -> dict[str, socket.socket]:
    """`count` GPUs by their names in `gpus`, taken now; empty if fewer are free."""
    taken = {}
    for name, identity in gpus.items():
        if len(taken) < count and (held := _socket(identity)):
            taken[name] = held
    if len(taken) == count:
        return taken
    for held in taken.values():
        held.close()
    return {}


def _socket(identity: str) -> socket.socket | None:
    """The socket that takes a GPU; None if another process has it."""
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0xft-gpu-{identity}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held


def main() -> None:
    """Become a command that has so many GPUs."""
    count, *command = sys.argv[1:]
    take_gpus(int(count))
    for held in _taken:
        held.set_inheritable(True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
