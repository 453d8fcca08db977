# The checked configuration, paths, and what the rules share. No rule stands here.

import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

# Where this project lies. Another workflow may take its rules as a module: workflow.basedir is its.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
if not ROOT.is_dir():
    sys.exit(
        "the steps run from a folder on this machine: clone it, name its Snakefile"
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

# Rules whose outputs checkouts may share. Without a place for them Snakemake would only talk of it.
SHARED = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")


def is_sharing():
    """Whether Snakemake takes artifacts out of a shared folder."""
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
    RESULTS = CONFIG.results_dir.rstrip("/")
    WANTS = Wants(CONFIG, RESULTS)
    CURRENT = Current(WANTS)
    # The processes of the jobs find all this done.
    if workflow.is_main_process:
        CURRENT.check(workflow.configfiles, shares=is_sharing())
except UserError as error:
    sys.exit(str(error))

# Steps import workflow_scripts from here and nothing from the user's own site-packages. Without
# conda they run in the environment that runs snakemake. The hub is offline but for what a rule runs
# with `online`, which leaves HF_HUB_OFFLINE as the user has it.
PYTHON_PATH = (
    ""
    if workflow.deployment_settings.deployment_method
    else Path(sys.executable).parent
)
# A cluster tells every process of a job of its end: the step alone heeds it, and `tee` hears it out.
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
# Of a model on the hub the size is known once it is fetched.
REQUESTS = Requests(CONFIG, Path(BASE if Path(BASE).is_dir() else f"{RESULTS}/base"))
RESOURCES = JobResources(CONFIG, REQUESTS, METRICS)
LAMBDAS = CONFIG.merge.lambdas
started = []  # when this run began
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
    """What a step's result depends on in the config, as its flags."""
    values = options_of_step(step, CONFIG)
    return to_flags(
        {name: value for name, value in values.items() if name not in left_out}
    )


def settled(path, wanted):
    """An input that Snakemake follows if its artifact is made again, and only then.

    path: a file of the wanted artifact.
    """
    if not workflow.is_main_process:
        return path
    CURRENT.begin(workflow.dag_settings.forcerun, accept_code=workflow.touch)
    return ancient(path) if CURRENT.fits(wanted) else path


def manifest(find):
    """The manifest of an artifact, as an input; none of a file that no step makes.

    find: the wanted artifact of a job's wildcards.
    """
    return manifests(lambda wildcards: [find(wildcards)])


def manifests(find):
    """The manifests of several."""
    return lambda wildcards: [
        settled(f"{wanted.place}.manifest.json", wanted)
        for wanted in find(wildcards)
        if wanted
    ]


def read(**found):
    """Artifacts as inputs: the folder of each and its manifest.

    found: by input, the wanted artifact of a job's wildcards.
    """
    inputs = {}
    for name, find in found.items():
        inputs |= {name: folder(find), f"{name}_manifest": manifest(find)}
    return inputs


def made(place, output=lambda path: path):
    """An artifact as outputs: its folder and its manifest.

    output: what Snakemake is to do with them.
    """
    return {
        "artifact": output(directory(f"{RESULTS}/{place}")),
        "manifest": output(f"{RESULTS}/{place}.manifest.json"),
    }


def folder(find):
    """The folder of an artifact, as an input. Its manifest tells Snakemake of changes."""
    return folders(lambda wildcards: [find(wildcards)])


def folders(find):
    """The folders of several."""
    return lambda wildcards: [ancient(str(w.place)) for w in find(wildcards)]


def results(find):
    """The files of some results, as inputs."""
    return lambda wildcards: [settled(str(wanted.place), wanted) for wanted in find()]


def marker(find):
    """The input by which a rule knows that its artifact is to be made again.

    find: the wanted artifact of a job's wildcards.
    """

    def path(wildcards):
        wanted = find(wildcards)
        if not workflow.is_main_process:
            return str(marker_path(wanted))
        CURRENT.begin(workflow.dag_settings.forcerun, accept_code=workflow.touch)
        return str(CURRENT.marker(wanted))

    return path


def base_files():
    """The files of a local base model; none for a hub id."""
    patterns = ("*", "additional_chat_templates/*.jinja")
    found = [path for pattern in patterns for path in Path(BASE).glob(pattern)]
    return sorted(str(path) for path in found if path.is_file())


def problem_file(wildcards):
    """The file of a set of problems."""
    return PROBLEMS[wildcards.dataset]


def forbidden_sets():
    """The labels of the evaluation problems that no row may give away."""
    return sorted(WANTS.forbidden_sets())


def sampling_seed():
    """The seed as a flag, where tokens are drawn."""
    draws = CONFIG.evaluation.temperature > 0
    return to_flags({"seed": CONFIG.seed}) if draws else ""


def backend(wildcards):
    """What generates."""
    return WANTS.backend(wildcards.model)


def evaluation_environment(wildcards):
    """The packages of an evaluation: vLLM's are others."""
    with_vllm = backend(wildcards) == "vllm"
    return "../envs/vllm.yaml" if with_vllm else "../envs/evaluation.yaml"


def prompt(wildcards):
    """The prompt that a model is evaluated with."""
    return WANTS.prompt(wildcards.model)


def template_content(name):
    """The hash of a template, where it is a file of the user's."""
    known = name in templates.NAMES or name == templates.COMPLETION.identity
    return None if known else content_hash(Path(name))


def kept(output):
    """An output of a merged model, which is removed after its evaluation unless all are kept."""
    return output if CONFIG.merge.keep == "all" else temp(output)


def targets():
    """What a run is to make."""
    best = [f"{RESULTS}/best.manifest.json"] if CONFIG.merge.keep == "best" else []
    return [f"{RESULTS}/summary.csv", *best]


def begin_run():
    """Say what the run computes with, and keep it with the results."""
    started.append(time.time())
    print(beginning(CONFIG), flush=True)
    settings.write_config(CONFIG, Path(RESULTS))


def show_failures():
    """Repeat the message of each step that failed, below all that Snakemake says."""
    for message in failures(Path(LOGS), started[0]) if started else ():
        print(f"\n{message}", file=sys.stderr)


def show_summary():
    """Print the table of results, where there is one."""
    table = Path(RESULTS) / "summary.md"
    if table.exists():
        print(table.read_text())


def protect_shared():
    """Make the shared files of artifacts read-only again: Snakemake lets everybody write them."""
    if not SHARED:
        return
    # The first checkout has links to folders, later ones folders of links.
    links = [path for path in Path(RESULTS).rglob("*") if path.is_symlink()]
    files = [link for link in links if link.is_file()]
    files += [path for link in links if link.is_dir() for path in link.iterdir()]
    place = Path(SHARED).resolve()
    for file in map(Path.resolve, files):
        if place in file.parent.parents:
            with suppress(PermissionError):  # another user's
                file.chmod(file.stat().st_mode & ~0o222)
