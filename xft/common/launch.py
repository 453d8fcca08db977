"""The command that starts the processes of a training, and how these processes end."""

import atexit
import os
import sys
from typing import NoReturn

SECONDS_TO_STOP = 3600  # for a checkpoint after SIGTERM; clusters have shorter limits
FIRST_PORT, PORTS = 12000, 20000  # below the ports that systems give to clients
# In the shell of a Slurm task. MASTER_ADDR and MASTER_PORT go first.
NODES = "${SLURM_STEP_NODELIST:?is not set: several nodes need srun}"
FIRST_NODE = f'${{MASTER_ADDR:-$(scontrol show hostnames "{NODES}" | head -n 1)}}'
PORT = f"${{MASTER_PORT:-$(({FIRST_PORT} + ${{SLURM_JOB_ID:-0}} % {PORTS}))}}"


def torchrun(processes: int, nodes: int) -> str:
    """The shell command in front of `-m workflow_scripts.<step>`, for each of the nodes.

    processes: on each.

    Several nodes are those of a Slurm step, in whose tasks a shell reads the command.
    """
    place = "--standalone"
    if nodes > 1:
        place = (
            f"--nnodes {nodes} --rdzv-backend c10d --rdzv-id ${{SLURM_JOB_ID:-0}} "
            f'--rdzv-endpoint "{FIRST_NODE}:{PORT}"'
        )
    return f"torchrun {place} --nproc-per-node {processes} --shutdown-timeout {SECONDS_TO_STOP}"


def end_process() -> NoReturn:
    """End this process of a group when all is written: run the exit handlers, and no destructors.

    DDP keeps gloo's threads running. One that lets go of a tensor while Python ends aborts the
    process.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
