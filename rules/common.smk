# The checked configuration, paths, and what the rules share. No rule stands here.

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

# Where this project lies. Another workflow may take its rules as a module: workflow.basedir is its.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
if not ROOT.is_dir():
    sys.exit(
        "the steps run from a folder on this machine: clone it, name its Snakefile"
    )
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from workflow_scripts import cli, config_file, configuration
from workflow_scripts.checkpoints.source import dataset_source
from workflow_scripts.data import templates
from workflow_scripts.dependencies import code_hash, content_hash
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation import problems
from workflow_scripts.evaluation.named_sets import NAMED_SETS
from workflow_scripts.optional import require
from workflow_scripts.planning.resources import Needs, Requests
from workflow_scripts.training.strategies import world_size

try:
    config = config_file.complete(config)
    config_file.check_files(config)
    # By which each set of problems is told: a named one before it is fetched.
    PROBLEM_CONTENTS = {
        problems.label(dataset): (
            NAMED_SETS[dataset].wanted_sha256
            if dataset in NAMED_SETS
            else content_hash(Path(dataset))
        )
        for dataset in config["evaluation"]["datasets"]
    }
    if not workflow.deployment_settings.deployment_method:
        require(config["evaluation"]["backend"])
        if config["evaluation"]["general"]:
            require("lm_eval")
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

# Rules whose outputs checkouts may share. Without a place for them Snakemake would only talk of it.
SHARED = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")
RESULTS = config["results_dir"].rstrip("/")
LOGS = f"{RESULTS}/logs"
METRICS = f"{RESULTS}/metrics"
BASE = config["base"]["model"]
DATA = config["data"]["train"]
# Beside what was fetched. Where a rule runs, Snakemake does not look at the params of those below
# it: with nothing but ancient files between them, they would not run.
DATA_MANIFEST = []
DATA_OPTIONS = ["train", "revision"]  # what names the rows on the hub
if config["data"]["revision"]:
    hub = dataset_source(DATA, config["data"]["revision"])
    DATA = f"{RESULTS}/data/fetched/{hub.file_name}"
    DATA_MANIFEST = [f"{DATA}.manifest.json"]
    if hub.file is None:
        DATA_OPTIONS.append("split")
# A resource and not a param of the trainings: other trackers change no result, and run nothing.
TRACKERS = cli.to_flags({"trackers": config["trackers"], "tracker_dir": METRICS})
# Of a model on the hub the size is known once it is fetched.
REQUESTS = Requests(config, Path(BASE if Path(BASE).is_dir() else f"{RESULTS}/base"))
LAMBDAS = config["merge"]["lambdas"]
PROBLEMS = {
    problems.label(dataset): (
        f"{RESULTS}/problems/{dataset}.jsonl" if dataset in NAMED_SETS else dataset
    )
    for dataset in config["evaluation"]["datasets"]
}


wildcard_constraints:
    lam=r"0|1|0\.\d*[1-9]",
    model=r"base|moe|moe_sft|sft|(uniform|dense)/lam~(0|1|0\.\d*[1-9])",
    dataset=r"[^/]+",
    file=r".+(?<!\.manifest\.json)",
    named="|".join(NAMED_SETS),


def select(section, *names):
    """Some keys of a section of the config, as flags for a step."""
    return cli.to_flags({name: config[section][name] for name in names})


def without(section, *names):
    """All keys of a section but some, as flags for a step."""
    return cli.to_flags(
        {key: value for key, value in config[section].items() if key not in names}
    )


def base_files():
    """The files of a local base model; none for a hub id."""
    patterns = ("*", "additional_chat_templates/*.jinja")
    found = [path for pattern in patterns for path in Path(BASE).glob(pattern)]
    return sorted(str(path) for path in found if path.is_file())


def data_content():
    """The hash of the instruction rows; of rows on the hub, what names them."""
    on_hub = config["data"]["revision"]
    return select("data", *DATA_OPTIONS) if on_hub else content_hash(Path(DATA))


def problem_file(wildcards):
    """The file of a set of problems."""
    return PROBLEMS[wildcards.dataset]


def problem_manifest(name):
    """The manifest beside a set of problems; none beside a file of the user's."""
    return [f"{PROBLEMS[name]}.manifest.json"] if name in NAMED_SETS else []


def problem_content(wildcards):
    """The hash of a set of problems."""
    return PROBLEM_CONTENTS[wildcards.dataset]


def forbidden_sets():
    """The labels of the evaluation problems that no row may give away."""
    return sorted(PROBLEMS) if config["data"]["decontaminate"] else []


def growing(needs):
    """What a step asks for that begins anew when it is tried again.

    needs: what it asks for in its first attempt, by its wildcards.
    """
    return {
        **going_on(needs),
        "runtime": lambda wildcards, attempt: attempt * needs(wildcards).minutes,
    }


def going_on(needs):
    """The same of a step that goes on: more memory, and no more time.

    A half more memory each time, and no more than twice: most of these end by their time.
    """
    return {
        "mem_mb": lambda wildcards, attempt: needs(wildcards).mem_mb
        * min(attempt + 1, 4)
        // 2,
        "runtime": lambda wildcards: needs(wildcards).minutes,
    }


def fixed(mem_mb, minutes):
    """What a step asks for whose needs do not depend on the model."""
    return growing(lambda wildcards: Needs(mem_mb, minutes))


def conversion():
    """What a conversion asks for."""
    return growing(lambda wildcards: REQUESTS.conversion())


def evaluation():
    """What an evaluation asks for, a GPU if the config has some."""
    needs = going_on(lambda wildcards: REQUESTS.evaluation(wildcards.model))
    return {**needs, "gpu": config["gpus"]}


def measurement(minutes):
    """The same of what else is measured of a model, which begins anew: so many minutes at first."""
    needs = growing(
        lambda wildcards: replace(REQUESTS.evaluation(wildcards.model), minutes=minutes)
    )
    return {**needs, "gpu": config["gpus"]}


def training(section):
    """What a training asks for. On several nodes: a task on each, by our own srun."""
    nodes = config[section]["nodes"]
    # With a GPU the plugin would take tasks for tasks per GPU, unless it is told 0.
    tasks = dict(nodes=nodes, tasks=nodes, tasks_per_gpu=0, mpi="srun")
    return {
        **going_on(lambda wildcards: REQUESTS.training(section)),
        **(tasks if nodes > 1 else {}),
        "gpu": config["gpus"] * world_size(config[section]),
        "trackers": TRACKERS,
    }


def srun(section):
    """What starts a training's step on each of its nodes; nothing where there is one."""
    nodes, processes = config[section]["nodes"], config[section]["processes"]
    return (
        f"srun --nodes={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
        f"--cpus-per-task={config['threads'] * processes} "
        if nodes > 1
        else ""
    )


def sampling_seed():
    """The seed as a flag, where tokens are drawn."""
    draws = config["evaluation"]["temperature"] > 0
    return cli.to_flags({"seed": config["seed"]}) if draws else ""


def backend(wildcards):
    """What generates: for a mixture of experts transformers, which alone can load it."""
    mixture = wildcards.model in ("moe", "moe_sft")
    return "transformers" if mixture else config["evaluation"]["backend"]


def evaluation_environment(wildcards):
    """The packages of an evaluation: vLLM's are others."""
    with_vllm = backend(wildcards) == "vllm"
    return "../envs/vllm.yaml" if with_vllm else "../envs/evaluation.yaml"


def task_contents():
    """The hashes of the tasks of lm_eval that are files of the user's."""
    tasks = config["evaluation"]["general"]
    return [content_hash(Path(t)) if t.endswith(".yaml") else None for t in tasks]


def prompt(wildcards):
    """The prompt that a model is evaluated with: that of its tuning, where it is tuned."""
    untuned = wildcards.model in ("base", "moe")
    return (
        config["evaluation"]["base_prompt"] if untuned else config["data"]["template"]
    )


def template_content(name):
    """The hash of a template, where it is a file of the user's."""
    known = name in templates.NAMES or name == templates.COMPLETION.identity
    return None if known else content_hash(Path(name))


def evaluated_models():
    """The models that the config asks about, in the order of its tables."""
    models = []
    for model in config["evaluation"]["models"]:
        merged = [f"{model}/lam~{lam}" for lam in LAMBDAS]
        models += merged if model in config_file.MERGED else [model]
    return models


def evaluations():
    """Every evaluation that the config asks for, in the order of its tables."""
    return [
        f"{RESULTS}/eval/{model}/{name}.json"
        for name in PROBLEMS
        for model in evaluated_models()
    ]


def validation_losses():
    """The loss of each of these models on the rows held out, where there are any."""
    held_out = config["data"]["validation_rows"] > 0
    models = evaluated_models() if held_out else []
    return [f"{RESULTS}/validation/{model}.json" for model in models]


def general_results():
    """The result of each model on the tasks of lm_eval, where the config names some."""
    if not config["evaluation"]["general"]:
        return []
    return [f"{RESULTS}/general/{model}/tasks.json" for model in evaluated_models()]


def dense_evaluations():
    """The evaluation of each dense model on the first data set."""
    first = next(iter(PROBLEMS))
    return [f"{RESULTS}/eval/dense/lam~{lam}/{first}.json" for lam in LAMBDAS]


def kept(output):
    """An output of a merged model, which is removed after its evaluation unless all are kept."""
    return output if config["merge"]["keep"] == "all" else temp(output)


def targets():
    """What a run is to make."""
    best = (
        [f"{RESULTS}/best.manifest.json"] if config["merge"]["keep"] == "best" else []
    )
    return [f"{RESULTS}/summary.csv", *best]


def show_summary():
    """Print the table of results, where there is one."""
    table = Path(f"{RESULTS}/summary.md")
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
