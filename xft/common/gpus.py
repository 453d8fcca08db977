"""The devices that a step computes on: takes its GPUs, and describes them in a line for the log.

Steps side by side take different GPUs. A taken GPU is a socket with a name in Linux's abstract
namespace. Only one process can hold it. The system frees it when that process ends, also if it is
killed. No file is left behind.

`python -m xft.common.gpus COUNT COMMAND...` takes GPUs for a command.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from xft.common.errors import UserError, counted
from xft.common.progress import say

CPU_INFO = Path("/proc/cpuinfo")  # on Linux
VISIBLE = "CUDA_VISIBLE_DEVICES"
# The environment variable with the folder in which each process of a job notes its peaks.
PEAKS = "XFT_GPU_PEAKS"
GIB = 2**30
SECONDS_BETWEEN_TRIES = 1
SECONDS_TO_LIST = 60  # a broken driver may never answer
_taken: list[socket.socket] = []  # until this process ends


def claim_gpus(asked: int) -> None:
    """Take so many GPUs, as `take_gpus` does. A process of torchrun uses those that torchrun has.

    Raises UserError if `asked` is not 0 and torch can use no GPU.
    """
    if not asked:
        return
    if "RANK" not in os.environ:
        take_gpus(asked)
    check_gpus(asked)


def check_gpus(asked: int) -> None:
    """Raise UserError if torch can use no GPU. asked: as in the config."""
    import torch

    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no GPU that it can use"
    if not (torch.version.cuda or torch.version.hip):
        reason = f"the installed torch, {torch.__version__}, is built for the CPU alone"
    raise UserError(
        f"gpus = {asked}: {reason}. Install a torch for this GPU, check nvidia-smi and "
        "CUDA_VISIBLE_DEVICES, or compute on the CPU with gpus: 0 in the config"
    )


def describe_device(device: str, precision: str, threads: int | None) -> str:
    """One line for a log: the device, its threads, and the dtype of the weights.

    device: torch's name, such as "cpu" or "cuda:0".
    precision: of a training, or torch's dtype.
    """
    import torch

    dtype = "bf16 over fp32" if precision == "bf16" else precision.removeprefix("torch.")
    dtype = dtype.replace("bfloat", "bf").replace("float", "fp")
    if device.startswith("cuda"):
        return f"device {device} ({torch.cuda.get_device_name(device)}), {dtype} weights"
    of_threads = f", {counted(threads, 'thread')}" if threads else ""
    return f"device {device}{of_threads}, {dtype} weights"


def computed_on(model) -> dict[str, str]:
    """The device and the dtype of a loaded model, for its results."""
    return {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}


def note_peaks() -> None:
    """Note the memory that torch has taken of a GPU in this process, if the job asks for it."""
    torch = sys.modules.get("torch")
    if PEAKS not in os.environ or torch is None or not torch.cuda.is_initialized():
        return
    devices = range(torch.cuda.device_count())
    peaks = {
        "gpu_allocated_gib": max(map(torch.cuda.max_memory_allocated, devices)) / GIB,
        "gpu_reserved_gib": max(map(torch.cuda.max_memory_reserved, devices)) / GIB,
    }
    Path(os.environ[PEAKS], f"{os.getpid()}.json").write_text(json.dumps(peaks))


def noted_peaks(folder: Path) -> dict[str, float]:
    """The largest of the values that the processes of a job noted there. Empty without a GPU."""
    of_processes = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    if not of_processes:
        return {}
    return {key: max(peaks[key] for peaks in of_processes) for key in of_processes[0]}


def advice_on_nan() -> str:
    """The end of a message about NaN: what to try on a processor with AMX; nothing on others."""
    if not CPU_INFO.exists() or "amx_bf16" not in CPU_INFO.read_text():
        return ""
    return (
        ". If it is another step each time, in bf16 on the CPU, set "
        "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (docs/troubleshooting.md)"
    )


def take_gpus(count: int) -> None:
    """Let this process and those that it starts see only `count` GPUs that no other step has taken.

    Waits until so many are free. It must run before the process first uses CUDA. Without
    nvidia-smi, or with fewer GPUs, nothing is taken, and all GPUs stay visible.
    """
    gpus = _visible_gpus()
    if not 0 < count <= len(gpus):
        return
    taken = _take(gpus, count)
    if not taken:
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
        if len(taken) == count:
            break
        held = _socket(identity)
        if held is not None:
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
