"""The jobs of a configuration: one for each artifact that it wants."""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from xft.cli.flags import to_flags
from xft.common.results_folder import CONFIG_FILE, CONFIG_HEAD
from xft.config.steps import ARTIFACT, COSTS, STEPS
from xft.config.text import as_yaml
from xft.dag.experiment import RUNS_TABLE, Experiment
from xft.dag.job_resources import computing_flags, resources
from xft.dag.node import Node
from xft.store.job_records import COSTS_FILE, VIEW, Job
from xft.store.store import PARTIAL, is_whole


def find_jobs(experiment: Experiment, to_make: Collection[Node]) -> dict[str, Job]:
    """The jobs by the digest of what they make. made: what the run makes."""
    jobs = {node.digest: _job(node, experiment) for node in experiment.known}
    report = experiment.report
    jobs[report.digest] = _report_job(jobs[report.digest], experiment, to_make)
    return jobs


def _report_job(job: Job, experiment: Experiment, to_make: Collection[Node]) -> Job:
    """The job of the report, which reads what there is of the results, by their names.

    What somebody removed is not made again for it, nor are merges that are not kept.
    """
    shown = [
        str(node.entry)
        for node in experiment.report.ancestors()
        if node is not experiment.report
        and (node in to_make or is_whole(node.entry))
        and not node.is_temporary
    ]
    view = Path(f"{experiment.report.entry}{PARTIAL}", VIEW)
    texts = {
        f"{VIEW}/{CONFIG_FILE}": CONFIG_HEAD + as_yaml(experiment.config.model_dump()),
        f"{VIEW}/{RUNS_TABLE}": experiment.table(view),
    }
    inputs = job.inputs | {"shown": shown}
    return replace(job, inputs=inputs, texts=texts, shows=experiment.config.results_dir)


def _job(node: Node, experiment: Experiment) -> Job:
    files = [path for item in node.inputs if item.node is None for path in item.paths]
    results, log = experiment.config.results_dir, experiment.store.log(node.step, node.digest)
    texts = {RUNS_TABLE: experiment.table(node.entry)} if node.step == "summary" else {}
    logs = {f"{results}/logs/{_stem(node, name)}.log": str(log) for name in node.names}
    return Job(
        name=node.name,
        recipe=node.recipe,
        inputs=_by_name((item.name, item.paths) for item in node.inputs),
        places=_by_name((item.name, item.places) for item in node.inputs),
        flags=to_flags(node.flags | computing_flags(node)),
        resources=resources(node),
        links={os.path.normpath(f"{results}/{name}"): place for name, place in _links(node)},
        logs={os.path.normpath(name): target for name, target in logs.items()},
        texts=texts,
        contents={file: experiment.nodes.contents.of_file(file) for file in files},
    )


def _by_name(inputs: Iterable[tuple[str, Iterable[str]]]) -> dict[str, list[str]]:
    """The paths of inputs by the names in their rule."""
    paths: dict[str, list[str]] = {}
    for name, some in inputs:
        paths.setdefault(name, []).extend(some)
    return paths


def _links(node: Node) -> Iterator[tuple[str, str]]:
    """Each name of an artifact and of what belongs to it, with its place in the store."""
    for name in node.names:
        yield name, str(node.place)
        yield f"{name}.manifest.json", f"{node.place}.manifest.json"
        yield f"{COSTS}/{_stem(node, name)}.{COSTS_FILE}", str(node.entry / COSTS_FILE)
        prefix = name.removesuffix(node.step)
        for pattern, file in STEPS[node.step].beside.items():
            beside = pattern.format(name=name, prefix=prefix, stem=_stem(node, name))
            yield beside, str(node.entry / file)


def _stem(node: Node, name: str) -> str:
    """A name without the suffix of a file."""
    return name if node.file == ARTIFACT else name.rpartition(".")[0]
