# The checked configuration, paths, and what the rules share. No rule stands here.

import shlex
import sys
from pathlib import Path

if str(workflow.basedir) not in sys.path:
    sys.path.insert(0, str(workflow.basedir))

from workflow_scripts import cli, configuration
from workflow_scripts.errors import UserError
from workflow_scripts.evaluation import problems

try:
    config = configuration.complete(config)
    configuration.check_files(config)
except UserError as error:
    sys.exit(str(error))

# Steps import workflow_scripts from here and nothing from the user's own site-packages. Without
# conda they run in the environment that runs snakemake.
PYTHON_PATH = (
    ""
    if workflow.deployment_settings.deployment_method
    else Path(sys.executable).parent
)
shell.prefix(
    "set -euo pipefail; "
    f"export PYTHONPATH={shlex.quote(str(workflow.basedir))} PYTHONNOUSERSITE=1 "
    + (f'PATH={shlex.quote(str(PYTHON_PATH))}:"$PATH"; ' if PYTHON_PATH else "; ")
)

RESULTS = config["results_dir"].rstrip("/")
LOGS = f"{RESULTS}/logs"
METRICS = f"{RESULTS}/metrics"
BASE = config["base"]["model"]
DATA = config["data"]["train"]
if config["data"]["revision"]:
    DATA = f"{RESULTS}/data/{Path(DATA).name}"
LAMBDAS = config["merge"]["lambdas"]
DATASETS = {
    problems.label(dataset): dataset for dataset in config["evaluation"]["datasets"]
}


wildcard_constraints:
    lam=r"0|1|0\.\d*[1-9]",
    model=r"base|moe|moe_sft|dense/lam~(0|1|0\.\d*[1-9])",
    dataset=r"[^/]+",


def select(section, *names):
    """Some keys of a section of the config, as flags for a step."""
    return cli.to_flags({name: config[section][name] for name in names})


def without(section, *names):
    """All keys of a section but some, as flags for a step."""
    return cli.to_flags(
        {key: value for key, value in config[section].items() if key not in names}
    )


def base_files():
    """The files of a local base model, so that a changed file is noticed; none for a hub id."""
    folder = Path(BASE)
    return (
        sorted(str(path) for path in folder.iterdir() if path.is_file())
        if folder.is_dir()
        else []
    )


def dataset_file(wildcards):
    """The problems' file where the config names one; the steps find the named data sets."""
    dataset = DATASETS[wildcards.dataset]
    return [] if dataset in problems.NAMED_SETS else dataset


def prompt(wildcards):
    """The prompt that a model is evaluated with."""
    untuned = wildcards.model in ("base", "moe")
    return config["evaluation"]["base_prompt" if untuned else "prompt"]


def evaluations():
    """Every evaluation that the config asks for, in the order of its tables."""
    models = []
    for model in config["evaluation"]["models"]:
        models += (
            [f"dense/lam~{lam}" for lam in LAMBDAS] if model == "dense" else [model]
        )
    return [
        f"{RESULTS}/eval/{model}/{name}.json" for name in DATASETS for model in models
    ]


def show_summary():
    """Print the table of results, where there is one."""
    table = Path(f"{RESULTS}/summary.md")
    if table.exists():
        print(table.read_text())
