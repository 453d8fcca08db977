# What the rules have in common. An artifact lies in store/STEP/DIGEST: the digest of its recipe. A
# rule's jobs have a digest as their only wildcard, and find all else in the jobs of the run.

import shlex
import sys
from pathlib import Path

from xft.dag.job_resources import memory, minutes, nodes
from xft.dag.snakemake_run import SnakemakeRun
from xft.store.make import HIDE_ERRORS
from xft.store.store import DIGEST

RUN = SnakemakeRun(workflow, config)
CONFIG = RUN.config
JOBS = RUN.jobs
STORE = CONFIG.store
RESULTS = CONFIG.results_dir

# Steps import xft from ROOT, and nothing from the user's own site-packages. Without conda
# they run in the environment of snakemake.
VARIABLES = [f"PYTHONPATH={shlex.quote(str(ROOT))}", "PYTHONNOUSERSITE=1"]
if not RUN.deployment:
    PYTHON_PATH = Path(sys.executable).parent
    VARIABLES.append(f'PATH={shlex.quote(str(PYTHON_PATH))}:"$PATH"')
# `onerror` shows errors where it is called: neither for a job on a cluster nor for a module.
if RUN.is_alone:
    VARIABLES.append(f"{HIDE_ERRORS}=1")
shell.prefix(f"set -euo pipefail; export {' '.join(VARIABLES)}; ")


wildcard_constraints:
    digest=DIGEST.pattern,


def entry(step):
    """The folder of an artifact in the store.

    Snakemake does not delete what is declared as `update` before a job. So a job that starts
    though its entry is whole, as for a changed rule, ends at once and keeps it.
    """
    return update(directory(f"{STORE}/{step}/{{digest}}"))


def merged(entry):
    """The entry of a merged model, removed after the evaluation unless all models are kept."""
    return entry if RUN.keeps_merges else temp(entry)


def log_of(step):
    """A link to the log of a job. Snakemake removes what is declared as a log before a job."""
    return f"{STORE}/logs/{step}/{{digest}}.job.log"


def fixed(paths):
    """Paths whose times do not matter, because they lie under digests."""
    return [ancient(path) for path in paths]


def entry_of(name):
    """The entries, or files of the user's, that a job reads as an input of this name."""
    return lambda wildcards: fixed(RUN.inputs(wildcards.digest)[name])


def optional(name):
    """The same for an input that only some jobs of the rule read."""
    return lambda wildcards: fixed(RUN.inputs(wildcards.digest).get(name, []))


def flags(wildcards, output):
    """The flags of a job's command, with the place of its artifact."""
    job = JOBS[wildcards.digest]
    artifact = f"{output}.partial/{job.resources['file']}"
    return f"{job.flags} --out {shlex.quote(artifact)}"


def asked(request):
    """A request of a job that grows with its attempts."""
    return lambda wildcards, attempt: request(JOBS[wildcards.digest].resources, attempt)


def resource(name):
    """A resource of a job."""
    return lambda wildcards: JOBS[wildcards.digest].resources[name]


threads_of = resource("threads")
start = resource("start")
priority_of = resource("priority")
RESOURCES = {
    "mem_mb": asked(memory),
    "runtime": asked(minutes),
    "gpu": resource("gpu"),
    "label": lambda wildcards: JOBS[wildcards.digest].name,
}


def evaluation_environment(wildcards):
    """The environment of an evaluation. vLLM has its own."""
    is_vllm = resource("environment")(wildcards) == "vllm"
    return "../envs/vllm.yaml" if is_vllm else "../envs/evaluation.yaml"


onstart:
    RUN.start(ROOT)


onsuccess:
    RUN.succeed()


onerror:
    RUN.fail()
