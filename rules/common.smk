# The checked configuration, paths, and helpers of the rules.

import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

# This project's folder. workflow.basedir is another folder if these rules run as a module.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
if not ROOT.is_dir():
    sys.exit(
        "the steps must lie in a folder on this machine. Clone the repository, and name "
        "the Snakefile of the clone"
    )
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from workflow_scripts.cli.flags import to_flags
from workflow_scripts.config.reads import options_of_step
from workflow_scripts.workflow import settings
from workflow_scripts.workflow.announcements import beginning, failures
from workflow_scripts.workflow.current import Current
from workflow_scripts.workflow.input_checks import check_files
from workflow_scripts.workflow.job_resources import JobResources, fixed
from workflow_scripts.workflow.markers import marker_path
from workflow_scripts.workflow.places import is_results_folder
from workflow_scripts.workflow.wanted import Wants
from workflow_scripts.config.text import read_config
from workflow_scripts.config.validation import complete
from workflow_scripts.config.sections import problem_label
from workflow_scripts.data import templates
from workflow_scripts.artifacts.code import code_hash, content_hash
from workflow_scripts.common.errors import UserError
from workflow_scripts.hub.named_sets import NAMED_SETS
from workflow_scripts.common.optional import require
from workflow_scripts.planning.resources import Requests

# The folder for outputs that checkouts share. Without it nothing is cached, to avoid a warning.
SHARED = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")


def is_sharing():
    """Whether Snakemake takes artifacts from a shared folder."""
    return bool(SHARED) and workflow.workflow_settings.cache is not None


try:
    if workflow.is_main_process:
        for file in workflow.configfiles:
            read_config(Path(file))  # two equal keys are refused
    CONFIG = complete(config)
    check_files(CONFIG)
    if not workflow.deployment_settings.deployment_method:
        require(CONFIG.evaluation.backend)
        if CONFIG.evaluation.lm_eval:
            require("lm_eval")
    RESULTS = str(Path(CONFIG.results_dir))
    WANTS = Wants(CONFIG, RESULTS)
    CURRENT = Current(WANTS)
    # The processes of jobs need no check: the main process has done it.
    if workflow.is_main_process:
        CURRENT.check(workflow.configfiles, shares=is_sharing())
except UserError as error:
    sys.exit(str(error))

# Steps import workflow_scripts from ROOT, and nothing from the user's own site-packages. Without
# conda they run in the environment of snakemake. HF_HUB_OFFLINE is 1, except for commands that begin
# with `online`: these have the user's value.
PYTHON_PATH = (
    ""
    if workflow.deployment_settings.deployment_method
    else Path(sys.executable).parent
)
# At the end of a job a cluster sends SIGTERM to all its processes. Only the step handles it: the
# shell and `tee` ignore it, so the log has the step's last lines.
shell.prefix(
    "set -euo pipefail; trap '' TERM; "
    f"export PYTHONPATH={shlex.quote(str(ROOT))} PYTHONNOUSERSITE=1 "
    + (f'PATH={shlex.quote(str(PYTHON_PATH))}:"$PATH"; ' if PYTHON_PATH else "; ")
    + 'users_offline="${{HF_HUB_OFFLINE:-}}"; export HF_HUB_OFFLINE=1; '
    + 'online() {{ HF_HUB_OFFLINE="$users_offline" "$@"; }}; '
)


LOGS = f"{RESULTS}/logs"
METRICS = f"{RESULTS}/metrics"
BASE = CONFIG.base.model
DATA = str(WANTS.fetched_rows.place if WANTS.fetched_rows else CONFIG.data.train)
# The size of a model on the hub is unknown until the model is fetched.
REQUESTS = Requests(CONFIG, Path(BASE if Path(BASE).is_dir() else f"{RESULTS}/base"))
RESOURCES = JobResources(CONFIG, REQUESTS, METRICS)
LAMBDAS = CONFIG.merge.lambdas
started = []  # the time at which this run began
PROBLEMS = {
    problem_label(dataset): (
        f"{RESULTS}/problems/{dataset}.jsonl" if dataset in NAMED_SETS else dataset
    )
    for dataset in CONFIG.evaluation.datasets
}


wildcard_constraints:
    lam=r"0|1|0\.\d*[1-9]",
    model=r"base|moe|moe_sft|sft|(uniform|dense)/lam~(0|1|0\.\d*[1-9])",
    dataset=r"[^/]+",
    file=r".+(?<!\.manifest\.json)",
    named="|".join(NAMED_SETS),


def options(step, *left_out):
    """The flags of a step for the keys of the config that its result depends on."""
    values = options_of_step(step, CONFIG)
    return to_flags(
        {name: value for name, value in values.items() if name not in left_out}
    )


def settled(path, wanted):
    """An input that makes a rule run again only if the input's artifact is made again.

    path: a file of the wanted artifact.
    """
    if not workflow.is_main_process:
        return path
    CURRENT.begin(workflow.dag_settings.forcerun, accept_code=workflow.touch)
    return ancient(path) if CURRENT.fits(wanted) else path


def manifest(find):
    """The manifest of an artifact, as an input; none for a file that no step makes.

    find: gives the wanted artifact for a job's wildcards.
    """
    return manifests(lambda wildcards: [find(wildcards)])


def manifests(find):
    """The manifests of several artifacts, as inputs."""
    return lambda wildcards: [
        settled(f"{wanted.place}.manifest.json", wanted)
        for wanted in find(wildcards)
        if wanted
    ]


def artifact_inputs(**found):
    """Artifacts as inputs: the folder of each and its manifest.

    found: for each input, a function that gives the wanted artifact for a job's wildcards.
    """
    inputs = {}
    for name, find in found.items():
        inputs |= {name: folder(find), f"{name}_manifest": manifest(find)}
    return inputs


def artifact_outputs(place, output=lambda path: path):
    """An artifact as outputs: its folder and its manifest.

    output: a function that sets how Snakemake treats them, such as `temp`.
    """
    return {
        "artifact": output(directory(f"{RESULTS}/{place}")),
        "manifest": output(f"{RESULTS}/{place}.manifest.json"),
    }


def folder(find):
    """The folder of an artifact, as an input. Snakemake sees changes by its manifest alone."""
    return folders(lambda wildcards: [find(wildcards)])


def folders(find):
    """The folders of several artifacts, as inputs."""
    return lambda wildcards: [ancient(str(w.place)) for w in find(wildcards)]


def results(find):
    """The files of several results, as inputs."""
    return lambda wildcards: [settled(str(wanted.place), wanted) for wanted in find()]


def marker(find):
    """The input that is newer than the outputs if a rule must make its artifact again.

    find: gives the wanted artifact for a job's wildcards.
    """

    def path(wildcards):
        wanted = find(wildcards)
        if not workflow.is_main_process:
            return str(marker_path(wanted))
        CURRENT.begin(workflow.dag_settings.forcerun, accept_code=workflow.touch)
        return str(CURRENT.marker(wanted))

    return path


def base_files():
    """The files of a local base model; none for a model on the hub."""
    patterns = ("*", "additional_chat_templates/*.jinja")
    found = [path for pattern in patterns for path in Path(BASE).glob(pattern)]
    return sorted(str(path) for path in found if path.is_file())


def problem_file(wildcards):
    """The file of a problem set."""
    return PROBLEMS[wildcards.dataset]


def forbidden_sets():
    """The labels of the problem sets that no row may give away."""
    return sorted(WANTS.forbidden_sets())


def sampling_seed():
    """The seed as a flag, if tokens are drawn."""
    draws = CONFIG.evaluation.temperature > 0
    return to_flags({"seed": CONFIG.seed}) if draws else ""


def backend(wildcards):
    """The library that generates the solutions of a model."""
    return WANTS.backend(wildcards.model)


def evaluation_environment(wildcards):
    """The environment of an evaluation. vLLM has its own."""
    with_vllm = backend(wildcards) == "vllm"
    return "../envs/vllm.yaml" if with_vllm else "../envs/evaluation.yaml"


def prompt(wildcards):
    """The prompt that a model is evaluated with."""
    return WANTS.prompt(wildcards.model)


def template_content(name):
    """The hash of a template that is a file; None for a named template."""
    known = name in templates.NAMES or name == templates.COMPLETION.identity
    return None if known else content_hash(Path(name))


def kept(output):
    """An output of a merged model, removed after the evaluation unless all models are kept."""
    return output if CONFIG.merge.keep == "all" else temp(output)


def targets():
    """The files that a run must make."""
    best = [f"{RESULTS}/best.manifest.json"] if CONFIG.merge.keep == "best" else []
    return [f"{RESULTS}/summary.csv", *best]


def begin_run():
    """Print what the run computes with, and store its configuration with the results."""
    started.append(time.time())
    print(beginning(CONFIG), flush=True)
    settings.write_config(CONFIG, Path(RESULTS))


def show_failures():
    """Print the message of each failed step again, below the output of Snakemake."""
    for message in failures(Path(LOGS), started[0]) if started else ():
        print(f"\n{message}", file=sys.stderr)


def show_summary():
    """Print the table of results, if there is one."""
    table = Path(RESULTS) / "summary.md"
    if table.exists():
        print(table.read_text())


def protect_shared():
    """Make the shared files of artifacts read-only again. Snakemake makes them writable for all."""
    if not SHARED:
        return
    # The first checkout has links to folders. Later checkouts have folders of links.
    links = [path for path in Path(RESULTS).rglob("*") if path.is_symlink()]
    files = [link for link in links if link.is_file()]
    files += [path for link in links if link.is_dir() for path in link.iterdir()]
    place = Path(SHARED).resolve()
    for file in map(Path.resolve, files):
        if place in file.parent.parents:
            with suppress(PermissionError):  # another user's
                file.chmod(file.stat().st_mode & ~0o222)
