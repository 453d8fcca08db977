# The plan of the run, and helpers of the rules. An artifact lies in store/STEP/DIGEST: the digest of
# its recipe. A rule's jobs have a digest as their only wildcard, and find all else in the plan.

import logging
import os
import shlex
import sys
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from xft.cli.flags import to_flags
from xft.common.devices import check_gpus
from xft.common.errors import UserError, did_you_mean
from xft.common.refusals import explain
from xft.config.text import read_config
from xft.config.validation import complete
from xft.dag.announcements import beginning, failures, store_line, warnings
from xft.dag.containers import IMAGE, bind_folders, check_image
from xft.dag.job_resources import memory, minutes, nodes
from xft.dag.run import WorkflowRun
from xft.dag.screen import shorten
from xft.dag.snakemake_options import (
    check_not_forced,
    check_options,
    name_nodes,
    with_entries,
)
from xft.dag.time_left import time_left
from xft.reporting.summary import head
from xft.store.job_log import HIDE_ERRORS
from xft.store.plan import read_plan
from xft.store.store import DIGEST

DEPLOYMENT = workflow.deployment_settings.deployment_method
IN_CONTAINERS = DeploymentMethod.APPTAINER in DEPLOYMENT
# In the processes of jobs, which read the plan of the main process.
RUN, KEEPS_MERGES = None, True
IS_ALONE = workflow.is_main_process and workflow.modifier.is_main_snakefile()


def left():
    """The time that the run still takes, in words."""
    # With --until, the graph also holds jobs that the targets do not need.
    graph = workflow.dag
    jobs = filter(graph.needrun, graph.bfs(graph.dependencies, *graph.targetjobs))
    return time_left(RUN, [file for job in jobs for file in job.output]) if RUN else ""


shorten(workflow, left)


@contextmanager
def told():
    """End the run with the message of an error that the user can correct."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(explain(error) or str(error))


with told():
    for file in workflow.configfiles if workflow.is_main_process else ():
        read_config(Path(file))  # two equal keys are refused
    if workflow.is_main_process:
        RUN = WorkflowRun(config)
        check_options(sys.argv, RUN)
        if not DEPLOYMENT:
            RUN.require_packages()
            RUN.check_models()
        RUN.check(workflow.configfiles)
        KEEPS_MERGES = RUN.keeps_merges
    CONFIG = RUN.config if RUN else complete(config)
    JOBS = RUN.jobs if RUN else read_plan()
    name_nodes(sys.stdout, JOBS)
    if IN_CONTAINERS:
        check_image()
        if RUN:
            bind_folders([ROOT, *RUN.folders()])

if IN_CONTAINERS:

    container: IMAGE


# The environment of each step. Steps import xft from ROOT, and nothing from the user's own
# site-packages. Without conda and containers they run in the environment of snakemake.
PYTHON_PATH = "" if DEPLOYMENT else Path(sys.executable).parent
# `onerror` shows errors where it is called: neither for a job on a cluster nor for a module.
shell.prefix(
    "set -euo pipefail; "
    f"export PYTHONPATH={shlex.quote(str(ROOT))} PYTHONNOUSERSITE=1 "
    + (f'PATH={shlex.quote(str(PYTHON_PATH))}:"$PATH" ' if PYTHON_PATH else "")
    + (f"{HIDE_ERRORS}=1; " if IS_ALONE else "; ")
)

STORE, RESULTS = CONFIG.store, CONFIG.results_dir


wildcard_constraints:
    digest=DIGEST.pattern,


def entry(step):
    """The folder of an artifact in the store.

    Snakemake does not delete what is declared as `update` before a job. So a job that starts
    though its entry is whole, as for a changed rule, ends at once and keeps it.
    """
    return update(directory(f"{STORE}/{step}/{{digest}}"))


def log_of(step):
    """A link to the log of a job. Snakemake removes what is declared as a log before a job."""
    return f"{STORE}/logs/{step}/{{digest}}.job.log"


def begin():
    """Lock the store and write the plan, if this process is to run jobs: not for -n or --dag."""
    # Existence alone decides what runs: an entry is whole, though its job may have been cut off.
    workflow.dag.ignore_incomplete |= IS_ALONE
    if IS_ALONE:
        with told():
            check_not_forced(workflow.dag_settings, RUN)
    if RUN and workflow.executor_plugin and not workflow.dryrun:
        if workflow.touch:
            print("--touch does nothing here: the times of artifacts do not matter")
            sys.exit()
        with told():
            RUN.begin()


def inputs(wildcards):
    """The entries and files that a job reads, by name."""
    begin()
    return JOBS[wildcards.digest].inputs


def fixed(paths):
    """Paths whose times do not matter, because they lie under digests."""
    return [ancient(path) for path in paths]


def entry_of(name):
    """The entries that a job reads as an input of this name."""
    return lambda wildcards: fixed(inputs(wildcards)[name])


def optional(name):
    """The same for an input that only some jobs of the rule read."""
    return lambda wildcards: fixed(inputs(wildcards).get(name, []))


def place_of(name):
    """The file or folder in the entry of an input, or the user's own files."""
    return lambda wildcards: JOBS[wildcards.digest].places[name]


def flag_of(name):
    """The flag of the same name with the place of an optional input; empty without it."""
    return lambda wildcards: to_flags(
        {name: JOBS[wildcards.digest].places.get(name, [])}
    )


def flags(wildcards):
    """The other flags of a job."""
    return JOBS[wildcards.digest].flags


def asked(what):
    """A request of a job that grows with its attempts."""
    return lambda wildcards, attempt: what(JOBS[wildcards.digest].resources, attempt)


def resource(name):
    """A resource of a job."""
    return lambda wildcards: JOBS[wildcards.digest].resources.get(name)


threads_of, start, file_of = map(resource, ("threads", "start", "file"))
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


def merged(entry):
    """The entry of a merged model, removed after the evaluation unless all models are kept."""
    return entry if KEEPS_MERGES else temp(entry)


warn = cache(partial(print, file=sys.stderr))  # a line, once


def check_rule_names():
    """End the run if an option names no rule. Snakemake would look for such a file, or do nothing."""
    asked, rules = workflow.dag_settings, [rule.name for rule in workflow.rules]
    for option in ("until", "omit-from"):
        for name in getattr(asked, option.replace("-", "_")):
            if "/" not in name and name not in rules:
                hint = did_you_mean(name, rules) or f". The rules: {', '.join(rules)}"
                sys.exit(f"--{option} {name}: there is no such rule{hint}")


def announce(nodes):
    """Begin a run that makes these artifacts, with warnings."""
    check_rule_names()
    workflow.dag.omitfiles |= with_entries(workflow.dag_settings.omit_from, RUN)
    begin()
    for line in warnings(RUN, RUN.needed(nodes)):
        warn(line)


@cache
def show_results():
    """Print the verdict and the scores of a finished configuration, once."""
    if Path(RESULTS, "report.html").exists():
        print(head(Path(RESULTS, "summary.md").read_text()))
        print(f"Charts and solutions, for a browser: {RESULTS}/report.html", flush=True)


def targets(wildcards):
    """The entries of what a run makes in the end."""
    announce(RUN.experiment.targets)
    if RUN.begun and not RUN.to_make:
        show_results()  # Snakemake calls no onsuccess where nothing is to be done
    return [ancient(str(node.entry)) for node in RUN.experiment.targets]


# The name of a result that is a file, not a folder such as dense/lam~0.75.
FILE_NAME = r"(?!(.*/)?ground_truth/).+\.[a-z]+"


def named(wildcards):
    """The entry of an artifact by its name in the results folder."""
    node = RUN.experiment.by_name.get(wildcards.name)
    if node is None:
        known = RUN.experiment.by_name
        sys.exit(
            f"{RESULTS}/{wildcards.name} is no result of this configuration"
            f"{did_you_mean(wildcards.name, known)}\nIts results:"
            + "".join(f"\n  {RESULTS}/{name}" for name in known)
        )
    announce([node])
    link = Path(RESULTS, wildcards.name)
    if workflow.dryrun and link.is_symlink() and link.resolve() != node.place.resolve():
        # Snakemake takes the link, which a run would replace, for the result.
        made = "\n  ".join(job.name for job in RUN.needed([node])) or "nothing"
        print(f"{link} is of another configuration. A run makes:\n  {made}")
    return ancient(str(node.entry))


def target_of(wildcards):
    """Where the link with a name leads."""
    node = RUN.experiment.by_name[wildcards.name]
    return os.path.relpath(node.place, Path(RESULTS, wildcards.name).parent)


def check_machine():
    """End the run if a job of this machine asks for a GPU that torch cannot use."""
    is_here = workflow.local_exec and not DEPLOYMENT
    if is_here and any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs()):
        with told():
            check_gpus(CONFIG.gpus)


onstart:
    check_machine()
    print(beginning(CONFIG), flush=True)


onsuccess:
    RUN.lay_names()
    show_results()
    print(store_line(RUN))


onerror:
    RUN.lay_names()
    for message in failures(RUN):
        print(f"\n{message}", file=sys.stderr)
    print("To go on: run the same command again.", file=sys.stderr)
    logging.disable()  # Snakemake only adds that a job failed
