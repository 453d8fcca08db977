"""Reads and writes the file of generations: one row for each sample of each problem.

The rows have the keys that EvalPlus needs (`task_id`, `solution`), so EvalPlus can read the file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from xft.artifacts.files import write_whole
from xft.common.errors import UserError
from xft.common.json_lines import read_json_lines
from xft.evaluation.prompts import TaskPrompt

ORIGIN = ("model", "settings", "versions")


@dataclass(frozen=True)
class Sample:
    """A generation.

    number: counts the samples of a problem from 0. completion: the raw text. solution: the program
    in it. origin: model, settings and versions of the run that generated it.
    """

    task_id: str
    number: int
    prompt_sha256: str
    completion: str
    solution: str
    finish: str
    origin: dict

    @property
    def code(self) -> str | None:
        """The solution; None if the model wrote nothing."""
        return self.solution if self.completion.strip() else None


def samples_path(result: Path) -> Path:
    """The path of a result file's generations: x.generations.jsonl beside x.json."""
    return result.with_name(result.name.removesuffix(".json") + ".generations.jsonl")


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write the rows whole or not at all."""
    write_whole(path, "".join(json.dumps(asdict(s), sort_keys=True) + "\n" for s in samples))


def journal_path(result: Path) -> Path:
    """The path of the generations of an unfinished run."""
    return result.with_name(f".{samples_path(result).name}.part")


def read_samples(path: Path, prompts: Sequence[TaskPrompt], count: int) -> list[Sample]:
    """Read the generations for exactly these prompts, `count` for each.

    Raises UserError if the file is missing or broken, or was made for other prompts.
    """
    if not path.is_file():
        raise UserError(f"there are no generations to score: {path} does not exist")
    samples = [_sample(value, f"{path}, line {n}") for n, value in read_json_lines(path)]
    wanted = [prompt for prompt in prompts for _ in range(count)]
    if len(samples) != len(wanted):
        raise UserError(
            f"{path} holds {len(samples)} generations for {len(prompts)} problems: "
            "was it made with another data set, limit or number of samples?"
        )
    for index, (sample, prompt) in enumerate(zip(samples, wanted, strict=True)):
        where = f"{path}, line {index + 1}"
        if (sample.task_id, sample.prompt_sha256) != (prompt.task_id, prompt.sha256):
            raise UserError(
                f"{where}: {sample.task_id} was not generated from the prompt of "
                f"{prompt.task_id}: was it made with another data set or prompt?"
            )
        if sample.number != index % count:
            raise UserError(f"{where}: number = {sample.number}, but it should be {index % count}")
    if any(sample.origin != samples[0].origin for sample in samples):
        raise UserError(f"{path} holds generations of more than one run")
    return samples


def _sample(value: object, where: str) -> Sample:
    try:
        if isinstance(value, ValueError):
            raise value
        sample = Sample(**value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: not a generation: {error}") from None
    for field in fields(Sample):
        value = getattr(sample, field.name)
        if type(value) is not field.type:
            kind = field.type.__name__
            fault = f"{field.name} = {value!r:.99} is not of type {kind}"
            raise UserError(f"{where}: not a generation: {fault}")
    parts = [sample.origin.get(key) for key in ORIGIN]
    if not all(isinstance(part, dict) for part in parts) or not parts[0].keys() >= {"path", "id"}:
        raise UserError(
            f"{where}: not a generation: origin must hold {', '.join(ORIGIN)}, and model its path "
            "and id"
        )
    return sample
