"""The floating-point operations of the trainings that a model comes from."""

from collections.abc import Mapping
from pathlib import Path

from xft.config.section import keys
from xft.config.sections import TRAINING, MoeConfig
from xft.config.steps import TRAINING_SECTIONS
from xft.estimates.jobs import TrainingJob
from xft.estimates.parameters import Models
from xft.estimates.rows import stored_lengths
from xft.estimates.tensors import ModelTable, read_table
from xft.estimates.work import training_work
from xft.reporting.page.files import made_from

DENSE = ("sft", "exfusion", "soup", "dense", "heal")


def base_table(folder: Path, artifacts: Mapping[str, dict]) -> ModelTable | None:
    """The tensors of the base, by a dense model of the folder; None if it has no such model.

    artifacts: see `find_made`.
    """
    dense = (job["job"] for job in artifacts.values() if job["kind"] in DENSE)
    name = next(dense, None)
    return None if name is None else read_table(folder / name)


def flops_to_make(
    folder: Path, table: ModelTable, artifacts: Mapping[str, dict], artifact: str
) -> int:
    """The FLOPs of all trainings that an artifact comes from, with rows as they are."""
    jobs = made_from(artifacts, artifact)
    moe = next((_options(MoeConfig, job) for job in jobs if job["kind"] == "moe"), MoeConfig())
    total = 0
    for job in jobs:
        if section := TRAINING_SECTIONS.get(job["kind"]):
            options, known = _options(TRAINING[section], job), job["parameters"]
            lengths = stored_lengths(folder / artifacts[job["inputs"]["tokens"]]["job"])
            launch, processes = options.launch, options.world_size
            training = TrainingJob(
                section, options, known["max_length"], launch, processes, on_gpu=False
            )
            work = training_work(Models(table, moe), training.with_rows(lengths), lengths.rows)
            total += work.flops
    return total


def _options(section: type, job: Mapping) -> object:
    """The options of an artifact as an object of their section of the configuration."""
    known = job["parameters"]
    return section(**{key: known[key] for key in keys(section) if key in known})
