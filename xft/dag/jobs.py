"""The jobs of a configuration: one for each artifact that it wants."""

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from xft.cli.flags import to_flags
from xft.config.results_folder import CONFIG_FILE, CONFIG_HEAD
from xft.config.steps import ARTIFACT, COSTS, STEPS
from xft.config.text import as_yaml
from xft.dag.experiment import RUNS_TABLE, Experiment
from xft.dag.job_resources import resources
from xft.dag.wanted import Wanted
from xft.store.costs import COSTS_FILE
from xft.store.plan import VIEW, Job
from xft.store.store import PARTIAL, is_whole


def find_jobs(experiment: Experiment, made: Collection[Wanted]) -> dict[str, Job]:
    """The jobs by the digest of what they make. made: what the run makes."""
    jobs = {part.digest: _job(part, experiment) for part in experiment.known}
    report = experiment.report
    jobs[report.digest] = _report_job(jobs[report.digest], experiment, made)
    return jobs


def _report_job(job: Job, experiment: Experiment, made: Collection[Wanted]) -> Job:
    """The job of the report, which reads what there is of the results, by their names.

    What somebody removed is not made again for it, nor are merges that are not kept.
    """
    keeps_merges = experiment.config.merge.keep == "all"
    shown = [
        str(part.entry)
        for part in experiment.report.chain()
        if part is not experiment.report
        and (part in made or is_whole(part.entry))
        and (part.rule != "dense" or keeps_merges)
    ]
    view = Path(f"{experiment.report.entry}{PARTIAL}", VIEW)
    texts = {
        f"{VIEW}/{CONFIG_FILE}": CONFIG_HEAD + as_yaml(experiment.config.model_dump()),
        f"{VIEW}/{RUNS_TABLE}": experiment.table(view),
    }
    inputs = job.inputs | {"shown": shown}
    return replace(job, inputs=inputs, texts=texts, shows=experiment.config.results_dir)


def _job(part: Wanted, experiment: Experiment) -> Job:
    results, log = experiment.config.results_dir, experiment.store.log(part.rule, part.digest)
    texts = {RUNS_TABLE: experiment.table(part.entry)} if part.rule == "summary" else {}
    logs = {f"{results}/logs/{_stem(part, name)}.log": str(log) for name in part.names}
    return Job(
        name=part.name,
        recipe=part.recipe,
        inputs=part.inputs,
        options=to_flags(part.options),
        resources=resources(part),
        links={os.path.normpath(f"{results}/{name}"): place for name, place in _links(part)},
        logs={os.path.normpath(name): target for name, target in logs.items()},
        texts=texts,
        contents={file: part.run.contents.of_file(file) for file in chain(*part.files.values())},
    )


def _links(part: Wanted) -> Iterator[tuple[str, str]]:
    """Each name of an artifact and of what belongs to it, with its place in the store."""
    for name in part.names:
        yield name, str(part.place)
        yield f"{name}.manifest.json", f"{part.place}.manifest.json"
        yield f"{COSTS}/{_stem(part, name)}.{COSTS_FILE}", str(part.entry / COSTS_FILE)
        prefix = name.removesuffix(part.rule)
        for pattern, file in STEPS[part.rule].beside.items():
            found = pattern.format(name=name, prefix=prefix, stem=_stem(part, name))
            yield found, str(part.entry / file)


def _stem(part: Wanted, name: str) -> str:
    """A name without the suffix of a file."""
    return name if part.file == ARTIFACT else name.rpartition(".")[0]
