"""The jobs of an experiment: what rules and the processes of jobs know of each artifact."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from xft.artifacts.artifact import ENTRY_FILE
from xft.artifacts.manifest import SAFETENSORS
from xft.checkpoints.model_files import INDEX_FILE
from xft.cli.step import to_flags
from xft.common.results_folder import CONFIG_FILE, CONFIG_HEAD
from xft.common.user_code import codes_in
from xft.config.reading import as_yaml
from xft.config.steps import ARTIFACT, COSTS, STEPS
from xft.dag.experiment import Experiment
from xft.dag.job_resources import resources
from xft.dag.nodes import Node
from xft.dag.runs_table import RUNS_TABLE
from xft.store import others
from xft.store.job_records import COSTS_FILE, VIEW, Job
from xft.store.store import PARTIAL, fetched, is_whole

READ_INSIDE = ("", "config.json", INDEX_FILE)  # of an artifact, by the report; "": what is a file


def find_jobs(experiment: Experiment, to_make: Collection[Node]) -> dict[str, Job]:
    """The jobs by the digest of what they make. to_make: what the run makes."""
    jobs = {node.digest: _job(node, experiment, to_make) for node in experiment.known}
    report = experiment.report
    jobs[report.digest] = _report_job(jobs[report.digest], experiment, to_make)
    return jobs


def _job(node: Node, experiment: Experiment, to_make: Collection[Node]) -> Job:
    texts = dict(node.texts)
    if node.step == "summary":
        texts[RUNS_TABLE] = experiment.table(node.entry)
    contents = experiment.nodes.contents
    return Job(
        name=node.name,
        recipe=node.recipe,
        inputs=_inputs(node),
        flags=to_flags(node.flags),
        resources=resources(node),
        links=_links(node, experiment, _shown_entry(node, to_make)),
        logs=_logs(node, experiment),
        texts=texts,
        contents={file: contents.of_file(file) for file in _user_files(node)},
        programs=_programs(node),
        publish=experiment.publish if others.is_shared(node) else None,
        one_of=[result.digest for result in node.one_of],
        may_diverge=node in experiment.tried,
    )


def _inputs(node: Node) -> dict[str, list[str]]:
    """The paths that a job reads, by the name of the input in the rule."""
    inputs: dict[str, list[str]] = {}
    for item in node.inputs:
        if item.paths:  # a value, such as lambda, has none
            inputs.setdefault(item.name, []).extend(item.paths)
    return inputs


def _user_files(node: Node) -> list[str]:
    """The user's files that a job reads."""
    return [path for item in node.inputs if item.node is None for path in item.paths]


def _programs(node: Node) -> list[str]:
    """The user's files that a job runs."""
    programs = []
    for key in STEPS[node.step].code_keys:
        value = node.flags.get(key.rpartition(".")[2])
        programs += [str(code.file) for code in codes_in(value)]
    return programs


def _links(node: Node, experiment: Experiment, entry: Path) -> dict[str, str]:
    """The links in the results folder to an artifact and to what belongs to it.

    entry: the folder that they lead into.
    """
    results = experiment.config.results_dir
    links = {}
    for name, file in _named_files(node):
        links[os.path.normpath(f"{results}/{name}")] = str(entry / file)
    return links


def _named_files(node: Node) -> Iterator[tuple[str, str]]:
    """Each name of an artifact and of what belongs to it, with its file in the entry."""
    for name in node.names:
        stem = _stem(node, name)
        prefix = name.removesuffix(node.step)
        yield name, node.file
        yield f"{name}.manifest.json", f"{node.file}.manifest.json"
        yield f"{COSTS}/{stem}.{COSTS_FILE}", COSTS_FILE
        for pattern, file in STEPS[node.step].beside.items():
            yield pattern.format(name=name, prefix=prefix, stem=stem), file


def _logs(node: Node, experiment: Experiment) -> dict[str, str]:
    """The links in the results folder to the log of a job."""
    results = experiment.config.results_dir
    log = experiment.store.log(node.step, node.digest)
    names = [f"{results}/logs/{_stem(node, name)}.log" for name in node.names]
    return {os.path.normpath(name): str(log) for name in names}


def _stem(node: Node, name: str) -> str:
    """A name without the suffix of a file."""
    if node.file == ARTIFACT:
        return name
    return name.rpartition(".")[0]


def _shown_entry(node: Node, to_make: Collection[Node]) -> Path:
    """The entry of an artifact, or what was fetched of it, if no more is needed."""
    part = fetched(node.entry)
    if node not in to_make and not is_whole(node.entry) and part.is_dir():
        return part
    return node.entry


def _report_job(job: Job, experiment: Experiment, to_make: Collection[Node]) -> Job:
    """The job of the report, which reads what there is of the results, by their names.

    What somebody removed is not made again for it, nor are merges that are not kept.
    """
    report = experiment.report
    shown = []
    for node in report.ancestors():
        entry = _shown_entry(node, to_make)
        is_there = node in to_make or is_whole(node.entry) or fetched(node.entry).is_dir()
        if is_there and entry != report.entry and not node.is_temporary:
            shown.append(str(entry))
    view = Path(f"{report.entry}{PARTIAL}", VIEW)
    texts = {
        f"{VIEW}/{CONFIG_FILE}": CONFIG_HEAD + as_yaml(experiment.config.model_dump()),
        f"{VIEW}/{RUNS_TABLE}": experiment.table(view),
    }
    inputs = job.inputs | {"shown": shown}
    return replace(job, inputs=inputs, texts=texts, shows=experiment.config.results_dir)


def page_reads(step: str, files: Mapping[str, dict]) -> dict[str, dict]:
    """Those of the files of an entry, as `Manifest.files`, that the report reads.

    Of weights it reads the header.
    """
    read = {}
    for file, stated in files.items():
        inside = file.partition("/")[2]
        is_header = file.endswith(SAFETENSORS) and step != "tokens"
        is_read = is_header or step == "tokens" or inside in READ_INSIDE
        if is_read and file != ENTRY_FILE:
            read[file] = stated | {"is_header": is_header}
    return read
