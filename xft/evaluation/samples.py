"""Reads and writes the file of generations: one row for each sample of each problem.

The rows have the keys that EvalPlus needs (`task_id`, `solution`), so EvalPlus can read the file.
"""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from xft.common.errors import UserError, described
from xft.common.file_access import write_whole
from xft.common.json_files import read_json_lines
from xft.evaluation.prompts import TaskPrompt


class ModelId(BaseModel):
    """Where a model was, and the id in its manifest, if it has one."""

    path: str
    id: str | None


class Origin(BaseModel):
    """The run that generated a sample."""

    model: ModelId
    settings: dict
    versions: dict


class Sample(BaseModel):
    """A generation.

    number: counts the samples of a problem from 0.
    completion: the raw text.
    solution: the program in it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    task_id: str
    number: int
    prompt_sha256: str
    completion: str
    solution: str
    finish: str
    origin: Origin


def samples_path(result: Path) -> Path:
    """The path of a result file's generations: x.generations.jsonl beside x.json."""
    return result.with_name(result.name.removesuffix(".json") + ".generations.jsonl")


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write the rows whole or not at all."""
    write_whole(path, "".join(json.dumps(s.model_dump(), sort_keys=True) + "\n" for s in samples))


def journal_path(result: Path) -> Path:
    """The path of the generations of an unfinished run."""
    return result.with_name(f".{samples_path(result).name}.part")


def read_samples(path: Path, prompts: Sequence[TaskPrompt], count: int) -> list[Sample]:
    """Read the generations for exactly these prompts, `count` for each.

    Raises UserError if the file is missing or broken, or was made for other prompts.
    """
    samples = [_sample(value, f"{path}, line {n}") for n, value in read_json_lines(path)]
    wanted = [(p.task_id, number, p.sha256) for p in prompts for number in range(count)]
    given = [(sample.task_id, sample.number, sample.prompt_sha256) for sample in samples]
    for line, (identity, expected) in enumerate(zip_longest(given, wanted), 1):
        if identity != expected:
            raise UserError(
                f"{path}, line {line}: these are not {count} generations for each of the "
                f"{len(prompts)} problems. Were they made with another data set, prompt, limit or "
                "number of samples?"
            )
    if any(sample.origin != samples[0].origin for sample in samples):
        raise UserError(f"{path} holds generations of more than one run")
    return samples


def _sample(value: object, where: str) -> Sample:
    try:
        return Sample.model_validate(value)
    except ValidationError as error:
        fault = value if isinstance(value, ValueError) else described(error)
        raise UserError(f"{where}: not a generation: {fault}") from None
