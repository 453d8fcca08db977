"""The jobs of a configuration: one for each artifact that it wants."""

import os
from collections.abc import Iterator
from itertools import chain

from xft.cli.flags import to_flags
from xft.dag.experiment import RUNS_TABLE, Experiment
from xft.dag.job_resources import resources
from xft.dag.wanted import ARTIFACT, GENERATIONS, METRICS, TRAININGS, Wanted
from xft.reporting.page.jobs import COSTS, FIGURES
from xft.store.costs import COSTS_FILE
from xft.store.plan import Job

# Files of an entry that have a name beside the artifact's own, by rule. {prefix}: the folders of a
# run's own values. {stem}: the name without the folders and the suffix.
BESIDE = {
    **{training: {"metrics/{name}.jsonl": METRICS} for training in TRAININGS},
    "eval": {"{stem}.generations.jsonl": GENERATIONS},
    "tokens": {"{prefix}data/report.json": "report.json"},
    "summary": {name: name for name in ("summary.md", "comparisons.csv")},
    "report": {name: name for name in (FIGURES, f"{FIGURES}.manifest.json")},
}


def find_jobs(experiment: Experiment) -> dict[str, Job]:
    """The jobs by the digest of what they make."""
    return {part.digest: _job(part, experiment) for part in experiment.known}


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
        for pattern, file in BESIDE.get(part.rule, {}).items():
            found = pattern.format(name=name, prefix=prefix, stem=_stem(part, name))
            yield found, str(part.entry / file)


def _stem(part: Wanted, name: str) -> str:
    """A name without the suffix of a file."""
    return name if part.file == ARTIFACT else name.rpartition(".")[0]
