"""The floating-point operations of the trainings that a model comes from."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from xft.config.section import keys
from xft.config.sections import TRAINING, MoeConfig
from xft.config.steps import TRAINING_SECTIONS
from xft.estimates.jobs import TrainingJob, training_work
from xft.estimates.model_sizes import Models, ModelTable, read_table
from xft.estimates.rows import stored_lengths
from xft.reporting.page.files import made_from

DENSE = ("sft", "soup", "dense")


def base_table(folder: Path, artifacts: Mapping[str, dict]) -> ModelTable | None:
    """The tensors of the base, by a dense model of the folder; None if it has no such model.

    artifacts: see `find_made`.
    """
    dense = (job["job"] for job in artifacts.values() if job["kind"] in DENSE)
    name = next(dense, None)
    return None if name is None else read_table(folder / name)


def flops_to_make(
    folder: Path, table: ModelTable, artifacts: Mapping[str, dict], artifact: str
) -> int | None:
    """The FLOPs of all trainings that an artifact comes from, with rows as they are.

    None if a training does not say what it did: another trainer or another version made it.
    """
    jobs = made_from(artifacts, artifact)
    trained = [job for job in jobs if job["kind"] in TRAINING_SECTIONS]
    with suppress(LookupError, ValueError):
        moe = next((_options(MoeConfig, job) for job in jobs if job["kind"] == "moe"), MoeConfig())
        return sum(_flops(folder, Models(table, moe), artifacts, job) for job in trained)
    return None


def _flops(folder: Path, models: Models, artifacts: Mapping[str, dict], job: Mapping) -> int:
    """The FLOPs of a training. Raises LookupError or ValueError if its artifact lacks a value."""
    section = TRAINING_SECTIONS[job["kind"]]
    options, length = _options(TRAINING[section], job), job["parameters"]["max_length"]
    lengths = stored_lengths(folder / artifacts[job["inputs"]["tokens"]]["job"])
    launch, processes = options.launch, options.world_size
    training = TrainingJob(section, options, length, launch, processes, on_gpu=False)
    return training_work(models, training.with_rows(lengths), lengths.rows).flops


def _options(section: type, job: Mapping) -> object:
    """The options of an artifact as an object of their section of the configuration."""
    known = job["parameters"]
    return section(**{key: known[key] for key in keys(section) if key in known})
