"""Jobs that a cluster ends, on a Slurm of their own, with the profile for Slurm.

Its two nodes are daemons of this machine.
"""

import os
import re
import signal
import subprocess
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import free_port
from project import Project

from xft.store.job_records import jobs_of

pytestmark = pytest.mark.slow
LOCAL_SLURM = Path(__file__).parents[3] / "shared" / "tools" / "local-slurm.sh"
SECOND = "localhost"  # the other node: a name that leads to this machine
LINK = Path("/etc/slurm/slurm.conf")
SECONDS = 800  # that a job may take to come as far as a test waits for
TRAINING = {"max_steps": 30, "per_device_train_batch_size": 4}
MIXING = TRAINING | {"max_steps": 150}  # long enough to be caught in the middle of it
STOCK = "examples/merges/model_stock.py:model_stock"
VARIANTS = {"xft": {}, "stock": {"merge": {"method": STOCK}}}
BALLAST = "\nBALLAST = b'x' * 10**9\n\n\ndef main("
PROFILE = [
    *("--workflow-profile", "slurm", "--latency-wait", "5", "--max-status-checks-per-second", "10"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"),
    # Enough for Snakemake within the job, and not for a step with BALLAST.
    *("--set-resources", "ground_truth:mem_mb=600 if attempt == 1 else 3000"),
]


Job = namedtuple("Job", "number state memory restarts")  # of Slurm; memory in MB


class Slurm:
    """A Slurm that was set up with one node, whose files are in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.second_node = folder / "slurmd2.pid"

    def call(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def jobs(self, project: Project, name: str) -> list[Job]:
        """A project's jobs, in order, that make the artifact with a name."""
        comment, found = comment_of(project, name), []
        for text in self.call("scontrol", "show", "job", "--oneliner").splitlines():
            fields = dict(re.findall(r"(\w+)=(\S+)", text))
            whose = fields.get("WorkDir"), fields.get("Comment")
            if whose == (str(project.folder), comment):
                memory = int(fields["MinMemoryNode"].removesuffix("M"))
                restarts = int(fields["Restarts"])
                found.append(Job(fields["JobId"], fields["JobState"], memory, restarts))
        return sorted(found, key=lambda job: int(job.number))

    def running(self, project: Project, name: str) -> str | None:
        """The number of the running job that makes the artifact with a name."""
        running = (job.number for job in self.jobs(project, name) if job.state == "RUNNING")
        return next(running, None)

    def restart_controller(self) -> None:
        stop(self.folder / "slurmctld.pid")
        self.call("slurmctld")

    def widen(self) -> None:
        """Add a node of the same size, and allow jobs of any time."""
        text = self.config.read_text().replace("MaxTime=60", "MaxTime=UNLIMITED")
        first = re.search(r"^NodeName=(\S+) (NodeAddr=\S+ CPUs=\d+ RealMemory=\d+).*$", text, re.M)
        port = f"Port={free_port()}"
        nodes = f"{first[0]}\nNodeName={SECOND} NodeHostname={first[1]} {first[2]} {port}"
        text = text.replace(first[0], nodes).replace(f"Nodes={first[1]} ", "Nodes=ALL ")
        self.config.write_text(text)
        self.restart_controller()
        stop(self.folder / "slurmd.pid")  # by `scontrol reconfigure` it would lose its pid file
        self.call("slurmd")
        own = self.folder / "slurm2.conf"
        own.write_text(re.sub(r"slurmd\b(?=\.pid|\.log)|(?<=/)spool$", r"\g<0>2", text, flags=re.M))
        (self.folder / "spool2").mkdir()
        self.call("slurmd", "-f", str(own), "-N", SECOND)
        wait_for(lambda: self.call("sinfo", "--noheader", "-o", "%D %t").split() == ["2", "idle"])

    def stop(self) -> None:
        subprocess.run([LOCAL_SLURM, "stop", self.folder], check=True, capture_output=True)
        if self.second_node.exists():
            stop(self.second_node)


def comment_of(project: Project, name: str) -> str | None:
    """What Snakemake notes at the jobs that make the artifact with a name, by the run's plan."""
    plans = project.folder.glob("store/plans/*.json")
    jobs = (job for plan in plans for job in jobs_of(plan).items())
    named = (f"rule_{j.recipe.step}_wildcards_{digest}" for digest, j in jobs if j.name == name)
    return next(named, None)


@pytest.fixture(scope="module")
def slurm(shared, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root can set up a Slurm")
    if LINK.exists():
        pytest.skip(f"another Slurm is set up here ({LINK})")
    folder = tmp_path_factory.mktemp("slurm")
    command, environment = [LOCAL_SLURM, "start", folder], os.environ | {"CPUS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "E: " in done.stdout + done.stderr:
        pytest.skip(f"Slurm cannot be installed: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    slurm = Slurm(folder)
    os.environ["SLURM_CONF"] = str(slurm.config)
    try:
        slurm.widen()
        yield slurm
    finally:
        slurm.stop()
        del os.environ["SLURM_CONF"]


def wait_for(happens: Callable):
    """What `happens` returns as soon as it is true."""
    deadline = time.monotonic() + SECONDS
    while not (result := happens()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return result


def stop(pid_file: Path) -> None:
    """End a daemon."""
    number = int(pid_file.read_text())
    os.kill(number, signal.SIGTERM)
    wait_for(lambda: has_ended(number))


def has_ended(number: int) -> bool:
    return not Path(f"/proc/{number}").exists()


@pytest.fixture
def start(tmp_path):
    """Callable (project, *arguments): snakemake, started; and its log."""
    started = []

    def start(project: Project, *arguments: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / f"log{len(started)}"
        started.append(project.start(log, *arguments))
        return started[-1], log

    yield start
    for running in started:
        running.kill()  # nothing, if it has ended
        running.wait()


def process(project: Project, module: str) -> int | None:
    """The number of the process in which a step of the project runs by itself."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            is_here = (folder / "cwd").resolve() == project.folder
            if is_here and words[1:3] == [b"-m", module.encode()]:
                return int(folder.name)
        except OSError:
            continue  # it has ended
    return None


def steps_of(project: Project, step: str) -> int:
    """How many optimiser steps the one unfinished training of a step has done."""
    files = project.folder.glob(f"store/{step}/*.partial/metrics.jsonl")
    return sum(len(file.read_text().splitlines()) for file in files)


def stopped_training(project: Project, step: str) -> int:
    """The process of a training, which waits after some steps for a signal to go on."""
    wait_for(lambda: steps_of(project, step) >= 3)
    number = process(project, f"workflow_scripts.{step}")
    os.kill(number, signal.SIGSTOP)
    return number


def test_killed_jobs_end_in_the_bytes_of_a_local_run(slurm, new_project, artifact_hashes, start):
    project, local = new_project("on_slurm"), new_project("local")
    for copy in (project, local):
        sections = {"moe_sft": TRAINING, "mixing": MIXING, "variants": VARIANTS}
        copy.overlay = copy.overlay | sections
        step = copy.folder / "workflow_scripts" / "ground_truth.py"
        step.write_text(step.read_text().replace("\ndef main(", BALLAST, 1))
    running, log = start(project, *PROFILE)
    alone, local_log = start(local)
    mixing, truth = "weighted_trained/lam~0.75", "ground_truth/problems"
    stock = "merge.method~model_stock.4b056366/dense/lam~0.75"

    slurm.call("scancel", wait_for(lambda: slurm.running(project, "moe")))
    number = stopped_training(project, "moe_sft")
    slurm.restart_controller()
    # Its time is over within the profile's five minutes: Slurm sends SIGTERM, and wakes it.
    job = slurm.running(project, "moe_sft")
    slurm.call("scontrol", "update", f"JobId={job}", "EndTime=now+120")
    wait_for(lambda: has_ended(number))

    # As Slurm does where a node fails, or is needed for another job.
    stopped_training(project, "weighted_trained")
    job = slurm.running(project, mixing)
    slurm.call("scontrol", "requeue", job)
    wait_for(lambda: slurm.jobs(project, mixing)[0].state == "PENDING")
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    assert running.wait() == 0, log.read_text()
    assert alone.wait() == 0, local_log.read_text()
    assert artifact_hashes(project) == artifact_hashes(local)

    logs = project.folder / ".snakemake" / "slurm_logs"  # of failed jobs
    (killed,) = logs.glob("rule_ground_truth/**/*.log")
    assert "exceeded memory limit" in killed.read_text()
    (stopped,) = logs.glob("rule_moe_sft/**/*.log")
    assert "SIGTERM: the training stops after this step" in stopped.read_text()
    for name in ("moe_sft", mixing):
        assert "continuing from" in (project.results / "logs" / f"{name}.log").read_text(), name
    states = {truth: ["FAILED", "COMPLETED"], "moe": ["CANCELLED", "COMPLETED"]}
    states["moe_sft"] = states[truth]
    states |= {mixing: ["COMPLETED"], stock: ["COMPLETED"]}
    assert {n: [job.state for job in slurm.jobs(project, n)] for n in states} == states
    assert slurm.jobs(project, mixing)[0].restarts == 1
    first, second = slurm.jobs(project, "moe")
    assert second.memory == pytest.approx(1.5 * first.memory, abs=1)

    # Resources, and where a job ran, run nothing again.
    assert project.run("--dry-run") == []


def test_a_training_on_two_nodes_goes_on_as_in_two_processes(slurm, new_project, start):
    """The nodes are told to end, as before their time is over."""
    project, local = new_project("two_nodes"), new_project("two_processes")
    for copy, launch in ((project, {"nodes": 2}), (local, {"processes": 2})):
        ddp = {"launch": "ddp", "per_device_train_batch_size": 2} | launch
        copy.overlay = copy.overlay | {"moe_sft": TRAINING | ddp}
    target = "results/moe_sft"
    running, log = start(project, target, *PROFILE)
    wait_for(lambda: steps_of(project, "moe_sft") >= 3)
    slurm.call("scancel", "--signal=TERM", slurm.running(project, "moe_sft"))
    assert running.wait() == 0, log.read_text()
    assert [job.state for job in slurm.jobs(project, "moe_sft")] == ["FAILED", "COMPLETED"]
    told = (project.results / "logs" / "moe_sft.log").read_text()
    assert "; global batch 4" in told
    assert "continuing from" in told
    local.run(target)
    weights = [copy.results / "moe_sft" / "model.safetensors" for copy in (project, local)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
