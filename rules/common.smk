# The checked configuration, paths, and helpers of the rules.

import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

from snakemake.io import apply_wildcards
from snakemake.settings.types import DeploymentMethod

from xft.cli.flags import to_flags
from xft.config.models import MERGED, MODELS
from xft.config.step_keys import options_of_step
from xft.dag import settings
from xft.dag.announcements import beginning, failures
from xft.dag.containers import IMAGE, bind_folders, check_image
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.input_checks import check_all_files
from xft.dag.job_resources import JobResources, fixed
from xft.dag.markers import marker_path
from xft.dag.places import RUNS_TABLE
from xft.dag.totals import warn_of_full_disk
from xft.reporting.summary import head
from xft.config.runs import find_runs
from xft.config.text import read_config
from xft.config.validation import complete
from xft.data import templates
from xft.artifacts.code import code_hash, content_hash
from xft.common.errors import UserError
from xft.hub.named_sets import NAMED_SETS
from xft.common.optional import require

# The folder for outputs that checkouts share. Without it nothing is cached, to avoid a warning.
SHARED = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")
IN_CONTAINERS = (
    DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)


def is_sharing():
    """Whether Snakemake takes artifacts from a shared folder."""
    return bool(SHARED) and workflow.workflow_settings.cache is not None


try:
    if workflow.is_main_process:
        for file in workflow.configfiles:
            read_config(Path(file))  # two equal keys are refused
    CONFIG = complete(config)
    RUNS = find_runs(config)
    check_all_files([CONFIG, *(run.config for run in RUNS)])
    if not workflow.deployment_settings.deployment_method:
        for evaluation in (run.config.evaluation for run in RUNS):
            require(evaluation.backend)
            if evaluation.lm_eval:
                require("lm_eval")
    RESULTS = str(Path(CONFIG.results_dir))
    EXPERIMENT = Experiment(CONFIG, RUNS, RESULTS)
    CURRENT = Current(EXPERIMENT)
    if IN_CONTAINERS:
        check_image()
        bind_folders([ROOT, Path(RESULTS), *(path for _, path in CURRENT.inputs())])
    # The processes of jobs need no check: the main process has done it.
    if workflow.is_main_process:
        CURRENT.check(workflow.configfiles, shares=is_sharing())
except UserError as error:
    sys.exit(str(error))

if IN_CONTAINERS:

    container: IMAGE


# Steps import xft from ROOT, and nothing from the user's own site-packages. Without
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
BENCHMARKS = f"{RESULTS}/benchmarks"
RESOURCES = JobResources(CONFIG, METRICS)
started = []  # the time at which this run began

# Places of artifacts in the results folder, below the folders of their variation.
FETCHED = "data/fetched/{file}"
SFT = "{tuned}"
INIT, TRAINED = "{start}/lam~{lam}", "weighted_trained/lam~{lam}"
DENSE, HEAL = "{merge}/lam~{lam}", "heal/lam~{lam}"
TRUTH = "ground_truth/{dataset}"
EVALUATION = "eval/{model}/{dataset}.json"
VALIDATION = "validation/{model}.json"
LM_EVAL = "lm_eval/{model}/tasks.json"


# Options that a recipe states in another form than the flag.
OTHERWISE = ("lam", "prompt", "template")


wildcard_constraints:
    lam=r"0|1|0\.\d*[1-9]",
    # The keys in which an artifact's run differs from the config itself, as seed~7/.
    variation=r"([^/~]+~[^/]+/)*",
    model=r"{}|({})/lam~(0|1|0\.\d*[1-9])".format(
        "|".join(model for model in MODELS if model not in MERGED),
        "|".join(MERGED).replace("experts_only", r"experts_only/expert~\d+"),
    ),
    # What one step makes in more than one way: with other inputs, or with other options.
    tuned="sft|sft_flops",
    start="weighted_init|uniform_init",
    merge=r"dense|uniform|experts_only/expert~\d+",
    dataset=r"[^/]+",
    file=r".+(?<!\.manifest\.json)",
    named="|".join(NAMED_SETS),


def at(place):
    """A function that finds the wanted artifact at a place for a job's wildcards."""
    pattern = f"{{variation}}{place}"
    return lambda wildcards: EXPERIMENT.find(apply_wildcards(pattern, wildcards))


def sources(find, name):
    """A function that finds the artifact `name` that an artifact is made from, if it has one."""
    return lambda wildcards: [
        found for found in [find(wildcards).sources.get(name)] if found
    ]


def options(find):
    """The flags for what the result of a job depends on, apart from its inputs."""
    return lambda wildcards: options_flags(find(wildcards))


def options_flags(wanted):
    """The flags for the options of a wanted artifact."""
    named = {key.rpartition(".")[2]: value for key, value in wanted.options.items()}
    return to_flags({key: named[key] for key in named if key not in OTHERWISE})


def step_params(step, find, **flags):
    """The params of a step: its code, its options, and flags for inputs that not all jobs have.

    flags: the names of the sources of such inputs, by flag.
    """
    params = {"code": code_hash(step), "options": options(find)}
    return params | {name: flag_for(name, find, flags[name]) for name in flags}


def flag_for(name, find, source_name):
    """The flag `name` for the jobs that have a source; empty for others."""
    flag = to_flags({name: True})
    return lambda wildcards: flag if sources(find, source_name)(wildcards) else ""


def settled(path, wanted):
    """An input that makes a rule run again only if the input's artifact is made again.

    path: a file of the wanted artifact.
    """
    if not workflow.is_main_process:
        return path
    CURRENT.begin(workflow.dag_settings.forcerun, accept_code=workflow.touch)
    return ancient(path) if CURRENT.fits(wanted) else path


def manifests(find):
    """The manifests of artifacts, as inputs.

    find: gives the wanted artifacts for a job's wildcards.
    """
    return lambda wildcards: [
        settled(f"{wanted.place}.manifest.json", wanted) for wanted in find(wildcards)
    ]


def artifact_inputs(find, *names):
    """The artifacts that an artifact is made from, as inputs: each folder and its manifest.

    find: gives the wanted artifact for a job's wildcards. names: of its sources. `changed` is newer
    than the outputs if the rule must make the artifact again.
    """
    inputs = {"changed": marker(find)}
    for name in names:
        found = sources(find, name)
        inputs |= {name: folders(found), f"{name}_manifest": manifests(found)}
    return inputs


def artifact_outputs(place, output=lambda path: path):
    """An artifact as outputs: its folder and its manifest.

    output: a function that sets how Snakemake treats them, such as `temp`.
    """
    path = f"{RESULTS}/{{variation}}{place}"
    return {
        "artifact": output(directory(path)),
        "manifest": output(f"{path}.manifest.json"),
    }


def training_outputs(place):
    """The outputs of a training: its artifact, and its metrics."""
    metrics = f"{METRICS}/{{variation}}{place}.jsonl"
    return artifact_outputs(place) | {"metrics": metrics}


def result_outputs(place):
    """A result as outputs: its file and its manifest."""
    path = f"{RESULTS}/{{variation}}{place}"
    return {"result": path, "manifest": f"{path}.manifest.json"}


def shown(path):
    """A file as an output that `snakemake --report` shows, with the caption in report/."""
    caption = f"../report/{Path(path).stem}.rst"
    labels = {"file": Path(path).name}
    return report(path, category="Results", caption=caption, labels=labels)


def folders(find):
    """The folders of artifacts, as inputs. Snakemake sees changes by their manifests alone."""
    return lambda wildcards: [ancient(str(w.place)) for w in find(wildcards)]


def results(find):
    """The files of several results, as inputs."""
    return lambda wildcards: [
        settled(str(wanted.place), wanted) for wanted in find(wildcards)
    ]


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


def log_of(name):
    """The path of a job's log."""
    return f"{LOGS}/{{variation}}{name}.log"


def tuning_metrics(diversity):
    """The metrics of the tuning of the mixture whose experts are compared."""
    mixture = diversity.sources["ffn"].sources["moe"].place
    return ancient(f"{METRICS}/{mixture.relative_to(RESULTS)}.jsonl")


def base_files(wildcards):
    """The files of a local base model; none for a model on the hub."""
    model = Path(at("base")(wildcards).run.config.base.model)
    patterns = ("*", "additional_chat_templates/*.jinja")
    found = [path for pattern in patterns for path in model.glob(pattern)]
    return sorted(ancient(str(path)) for path in found if path.is_file())


def base_source(wildcards):
    """The flags that name the base model. The recipe of a local one names its files instead."""
    return to_flags(options_of_step("base", at("base")(wildcards).run.config))


def rows_file(wildcards):
    """The file of the rows."""
    run = at("tokens")(wildcards).run
    return ancient(
        str(run.fetched_rows.place if run.fetched_rows else run.config.data.train)
    )


def problem_file(label):
    """The file of a set of problems."""
    named = f"{RESULTS}/problems/{label}.jsonl"
    return ancient(named if label in NAMED_SETS else EXPERIMENT.problem_sets[label])


def problem_inputs(labels):
    """The files of problem sets, and the manifests of those that were fetched.

    labels: gives their labels for a job's wildcards.
    """
    return {
        "problems": lambda wildcards: [
            problem_file(name) for name in labels(wildcards)
        ],
        "problem_manifests": manifests(
            lambda wildcards: [
                EXPERIMENT.fetched_problems(name)
                for name in labels(wildcards)
                if name in NAMED_SETS
            ]
        ),
    }


def forbidden_sets(wildcards):
    """The labels of the problem sets that no row may give away."""
    return sorted(at("tokens")(wildcards).run.forbidden_sets)


def evaluation_environment(wildcards):
    """The environment of an evaluation. vLLM has its own."""
    backend = at(EVALUATION)(wildcards).run.backend(wildcards.model)
    return "../envs/vllm.yaml" if backend == "vllm" else "../envs/evaluation.yaml"


def prompt(wildcards):
    """The prompt that a model is evaluated with."""
    return at(EVALUATION)(wildcards).run.prompt(wildcards.model)


def template_content(wildcards):
    """The hash of a template that is a file; None for a named template."""
    name = at("tokens")(wildcards).run.config.data.template
    known = name in templates.NAMES or name == templates.COMPLETION.identity
    return None if known else content_hash(Path(name))


def text_file(wildcards):
    """The file of texts that the coefficients learn from; none if they learn from the rows."""
    text = at(TRAINED)(wildcards).run.config.mixing.text
    return [ancient(text)] if text else []


def threads_of_start(wildcards):
    """The threads of the first coefficients: one, unless the mixture's use is measured."""
    return CONFIG.threads if sources(at(INIT), "tokens")(wildcards) else 1


def choice(wildcards):
    """The merges of a tuned mixture. The best one is kept."""
    return EXPERIMENT.choices[f"{wildcards.variation}best"]


def best(wildcards):
    """The best of these merges; one of them while the best is not known."""
    return CURRENT.best(f"{wildcards.variation}best")


def merge_options(wildcards):
    """The flags of step dense for each of these merges."""
    return [
        f"--options={options_flags(merge)}"
        + (f" --base={shlex.quote(str(base.place))}" if base else "")
        for merge in choice(wildcards).merges
        for base in [merge.sources.get("base")]
    ]


def kept(output):
    """An output of a merged model, removed after the evaluation unless all models are kept."""
    return output if CONFIG.merge.keep == "all" else temp(output)


def targets():
    """The files that a run must make."""
    best = [f"{RESULTS}/{place}.manifest.json" for place in EXPERIMENT.choices]
    return [f"{RESULTS}/report.html", *best]


def record_run():
    """Store with the results the configuration, and the table of runs."""
    settings.write_config(CONFIG, Path(RESULTS))
    settings.write_table(EXPERIMENT)


def begin_run():
    """Print what the run computes with, and store it with the results."""
    started.append(time.time())
    print(beginning(CONFIG), flush=True)
    if warning := warn_of_full_disk(CURRENT):
        print(warning, file=sys.stderr, flush=True)
    record_run()
    name_jobs()


def name_jobs():
    """Let Snakemake print a line for each job that begins, without all its files and resources."""
    for one in workflow.rules:
        if one.log:
            one.message = f"{one.name}: {{output[0]}} (log: {{log}})"


def show_failures():
    """Print the message of each failed step again, below the output of Snakemake."""
    for message in failures(Path(LOGS), started[0]) if started else ():
        print(f"\n{message}", file=sys.stderr)


def show_summary():
    """Print the verdict and the table of results, if there are any, and where to see more."""
    table = Path(RESULTS) / "summary.md"
    if table.exists():
        print(head(table.read_text()))
        print(f"Charts and solutions, for a browser: {RESULTS}/report.html")


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
