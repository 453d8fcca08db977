"""Starts the processes of a training step with torchrun, and reports their errors once."""

import atexit
import ctypes
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.training import TrainingConfig, fault_of_devices
from xft.training.session import TrainingRequest

LAUNCHER = "XFT_LAUNCHER"  # environment variable with the process number of the launcher
SECONDS_TO_STOP = 3600  # for a checkpoint after SIGTERM; clusters have shorter limits
FIRST_PORT, PORTS = 12000, 20000  # below the ports that systems give to clients
PR_SET_PDEATHSIG = 1


def started_processes(request: TrainingRequest, argv: list[str] | None) -> bool:
    """Start the step's processes and wait for them, if `launch` asks for it.

    argv: the step's arguments; None: the process's own. Returns False if this process must train
    itself. Raises UserError, also if a process reports one, and SystemExit with the status of a
    process that fails otherwise.
    """
    if request.options.launch == "single":
        return False
    import torch

    if fault := fault_of_devices(request.options, torch.cuda.device_count()):
        raise UserError(f"command line: {fault}")
    if "RANK" in os.environ:
        return False
    _start(request.step, argv, request.options, request.threads)
    return True


def _start(step: str, argv: list[str] | None, options: TrainingConfig, threads: int) -> None:
    from torch import distributed
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = torchrun_arguments(options, os.environ)
    arguments += ["-m", f"workflow_scripts.{step}", *(sys.argv[1:] if argv is None else argv)]
    say(f"python -m torch.distributed.run {shlex.join(arguments)}")
    with tempfile.TemporaryDirectory() as logs, _environment(threads):
        signal.signal(signal.SIGINT, partial(_hand_on_ctrl_c, logs))
        try:
            parsed = torchrun.parse_args(["--log-dir", logs, *arguments])
            parsed.signals_to_handle = "SIGTERM,SIGHUP,SIGQUIT"  # Ctrl-C is handled here
            torchrun.run(parsed)
        except SignalException as stop:
            sys.exit(128 + stop.sigval)
        except ChildFailedError as error:
            _raise_failures(sorted(error.failures.values(), key=lambda failure: failure.timestamp))
        except distributed.DistError as error:
            raise UserError(f"the processes did not find each other: {error}") from None


def torchrun_arguments(options: TrainingConfig, environment: Mapping[str, str]) -> list[str]:
    """torchrun's options for one node, or for this node of a Slurm job.

    Raises UserError if `environment` is not that of a Slurm task with the configured nodes.
    """
    nodes, processes = options.nodes, ["--nproc-per-node", str(options.processes)]
    if nodes == 1:
        return ["--standalone", *processes]
    if environment.get("SLURM_NNODES") != str(nodes) or "SLURM_NODEID" not in environment:
        raise UserError(
            f"nodes = {nodes}: this is not a task of a Slurm job step on {nodes} nodes. Start it "
            f"with srun --nodes={nodes} --ntasks-per-node=1, or start torchrun on each node"
        )
    port = FIRST_PORT + int(environment.get("SLURM_JOB_ID", 0)) % PORTS
    return [
        *("--nnodes", str(nodes), "--node-rank", environment["SLURM_NODEID"], *processes),
        *("--master-addr", environment.get("MASTER_ADDR") or _first_node(environment)),
        *("--master-port", environment.get("MASTER_PORT") or str(port)),
    ]


def _first_node(environment: Mapping[str, str]) -> str:
    """The name of node 0 of a Slurm job step."""
    names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", names], check=True, capture_output=True, text=True
        )
        return done.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(
            f"scontrol does not show the first of the nodes {names!r}. Set MASTER_ADDR to its name"
        ) from None


def _hand_on_ctrl_c(logs: str, *_) -> None:
    """Let torchrun pass the first Ctrl-C to the processes. The second ends all of them at once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    signal.signal(signal.SIGINT, partial(_end_at_once, logs))
    raise SignalException("Ctrl-C", signal.SIGINT)


def _end_at_once(logs: str, *_) -> None:
    """End this process, and so those that it started. torchrun would wait for them."""
    shutil.rmtree(logs, ignore_errors=True)
    os._exit(128 + signal.SIGINT)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set the environment of the processes and silence torchrun, inside the block."""
    before = dict(os.environ)
    logging.disable()  # torchrun logs each signal and each process that ends
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_STOP))
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def end_with_launcher() -> None:
    """Let the system kill this process if its launcher is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[LAUNCHER]):
        sys.exit("the launcher of this process has ended")


def end_process() -> NoReturn:
    """End this process of a group when all is written: run the exit handlers, and no destructors.

    DDP keeps gloo's threads running. One that lets go of a tensor while Python ends aborts the
    process.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _raise_failures(failures: list) -> None:
    """Raise the UserError that a process reported, or exit with the reported stack traces.

    Without a report, exit with the status of the first process that failed. failures: torch's
    ProcessFailure of each process that failed by itself, in the order of time.
    """
    prefix = f"{UserError.__name__}: "
    reports = [f.message for f in failures if isinstance(f.message, dict)]
    for report in reports:
        if report["message"].startswith(prefix):
            raise UserError(report["message"].removeprefix(prefix))
    if reports:
        sys.exit("\n".join(report["extraInfo"]["py_callstack"] for report in reports))
    status = failures[0].exitcode
    if status < 0:
        sys.exit(f"a process of the training was ended by {signal.Signals(-status).name}")
    sys.exit(status)
