"""The files of an evaluation: the generations, and the result. Equal runs write equal bytes.

The generations are one row for each sample of each problem. They have the keys that EvalPlus needs
(`task_id`, `solution`), so EvalPlus can read them.
"""

import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from xft.artifacts.manifest import ResultFormat
from xft.common.errors import UserError, counted, described
from xft.common.file_access import write_whole
from xft.common.foreign_text import one_line
from xft.common.json_files import read_json_lines
from xft.evaluation import scoring
from xft.evaluation.problems import DataSet
from xft.evaluation.prompts import TaskPrompt
from xft.evaluation.scoring import CUT_OFF, NO_CODE, OUTCOMES, PASSED, TEST_SETS, Statuses
from xft.hub.named_sets import set_in_words


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
    lines = [json.dumps(sample.model_dump(), sort_keys=True) + "\n" for sample in samples]
    write_whole(path, "".join(lines))


def journal_path(result: Path) -> Path:
    """The path of the generations of an unfinished run."""
    return result.with_name(f".{samples_path(result).name}.part")


def read_samples(path: Path, prompts: Sequence[TaskPrompt], count: int) -> list[Sample]:
    """Read the generations for exactly these prompts, `count` for each.

    Raises UserError if the file is missing or broken, or was made for other prompts.
    """
    samples = [_sample(value, f"{path}, line {n}") for n, value in read_json_lines(path)]
    wanted = [
        (prompt.task_id, number, prompt.sha256) for prompt in prompts for number in range(count)
    ]
    given = [(sample.task_id, sample.number, sample.prompt_sha256) for sample in samples]
    for line, (generation, expected) in enumerate(zip_longest(given, wanted), 1):
        if generation != expected:
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


RESULT = ResultFormat("eval", "eval", 2, "pass@1")
# EvalPlus calls the first ones "base", as the tables call a model.
TEST_NAMES = {"base": "original tests", "plus": "original + extra tests"}
SAMPLES_OF = (1, 10, 100)  # k of pass@k
ADVICE = {
    NO_CODE: "are empty: check the template",
    CUT_OFF: "are cut off: raise max_new_tokens",
    scoring.ERROR: "end with an error",
    scoring.COMPILE_ERROR: "do not compile: check the template",
}
# EvalPlus 0.3.1 counts every solution of this problem as failed.
FAILED_BY_EVALPLUS = "HumanEval/32"
NAMED = 5  # problems in a remark


def package_versions(*names: str) -> dict[str, str]:
    """The installed versions, without importing the packages."""
    return {name: version(name) for name in names}


def build_result(
    data_set: DataSet,
    samples: Sequence[Sample],
    statuses: Sequence[Statuses],
    settings: dict,
    versions: Mapping[str, str],
) -> dict:
    """The content of the result file.

    pass@k is the unbiased estimate of the share of problems with a passing sample among k samples.
    With one sample each, pass@1 is the share of problems that pass. passed: the number of samples.

    settings, versions: of the scoring; the samples have their own.
    """
    origin = samples[0].origin.model_dump()
    here = {"python": platform.python_version()} | package_versions("evalplus", "numpy")
    units = {problem.task_id: problem.unit for problem in data_set.problems}
    return {
        "model": origin["model"],
        "dataset": _dataset_content(data_set),
        "settings": origin["settings"] | settings,
        "versions": origin["versions"] | here | versions,
        **_pass_at_k(samples, statuses),
        "passed": {tests: sum(_passed(statuses, tests)) for tests in TEST_SETS},
        "problems": [
            _sample_content(sample, status, units[sample.task_id])
            for sample, status in zip(samples, statuses, strict=True)
        ],
    }


def _dataset_content(data_set: DataSet) -> dict:
    """The data set in a result."""
    content = {
        "name": data_set.name,
        "file": data_set.file.name,
        "sha256": data_set.sha256,
        "form": data_set.form.name,
        "extra_tests": any(problem.has_extra_tests for problem in data_set.problems),
        "problems": len(data_set.problems),
        "problems_in_file": len(data_set.lines),
    }
    if data_set.left_out:
        content["left_out"] = data_set.left_out
    return content


def _sample_content(sample: Sample, status: Statuses, unit: str | None) -> dict:
    """A sample in a result, without its texts. unit: of the sample's problem."""
    content = {
        "task_id": sample.task_id,
        "prompt_sha256": sample.prompt_sha256,
        "finish": sample.finish,
        "sample": sample.number,
        **vars(status),
    }
    if unit:
        content["unit"] = unit
    return content


def _pass_at_k(samples: Sequence[Sample], statuses: Sequence[Statuses]) -> dict[str, dict]:
    """pass@k for each k of `SAMPLES_OF` up to the number of samples of a problem."""
    import numpy as np
    from evalplus.eval import estimate_pass_at_k

    count = samples[-1].number + 1
    scores = {f"pass@{k}": {} for k in SAMPLES_OF if k <= count}
    for tests in TEST_SETS:
        by_problem = np.reshape(_passed(statuses, tests), (-1, count))
        passed = by_problem.sum(axis=1)
        for k in SAMPLES_OF:
            if k <= count:
                shares = estimate_pass_at_k(count, passed, k)
                scores[f"pass@{k}"][tests] = float(shares.mean())
    return scores


def _passed(statuses: Sequence[Statuses], tests: str) -> list[bool]:
    return [getattr(status, tests) == PASSED for status in statuses]


def tests_of(result: dict) -> dict[str, str]:
    """The sets of tests that have different scores, with their names: one alone needs none."""
    return TEST_NAMES if result["dataset"]["extra_tests"] else {"plus": ""}


def solved_shares(result: dict, tests: str) -> list[float]:
    """The share of samples that pass, for each problem of a result."""
    by_problem: dict[str, list[bool]] = {}
    for row in result["problems"]:
        by_problem.setdefault(row["task_id"], []).append(row[tests] == PASSED)
    return [sum(passed) / len(passed) for passed in by_problem.values()]


def units_of(result: dict) -> list[str]:
    """The name of each problem of a result, or its unit: a problem that it shares with others."""
    units = {row["task_id"]: row.get("unit", row["task_id"]) for row in result["problems"]}
    return list(units.values())


def outcomes(result: dict) -> dict[str, int]:
    """The number of samples with each of `OUTCOMES` on original + extra tests."""
    counts = Counter(map(_outcome, result["problems"]))
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def _outcome(row: dict) -> str:
    """A sample's status, or CUT_OFF. Refused and too costly samples have FAILED.

    row: of a result.
    """
    status = row["plus"]
    if row["finish"] == "length" and status not in (PASSED, NO_CODE):
        return CUT_OFF
    return status if status in OUTCOMES else scoring.FAILED


def advice(outcomes: dict[str, int]) -> str:
    """How more than half of the answers ended, and what to check; "" if that is no fault.

    It can follow the name of a model.
    """
    count = sum(outcomes.values())
    for outcome, words in ADVICE.items():
        if 2 * outcomes[outcome] > count:
            return f"{outcomes[outcome]} of {count} answers {words}"
    return ""


def result_lines(result: dict) -> Iterator[str]:
    """The lines about a result for the reader: the scores, the outcomes and remarks."""
    parts = []
    count = len(result["problems"])
    for tests, name in tests_of(result).items():
        shares = ", ".join(f"{key} {result[key][tests]:.1%}" for key in measures(result))
        scores = f"{shares}, {result['passed'][tests]} of {count} pass"
        parts.append(f"{name}: {scores}" if name else scores)
    yield "; ".join(parts)
    yield from endings(result)
    yield from caveats([result])


def endings(result: dict) -> Iterator[str]:
    """How many samples have which outcome, and advice if there is any, for the reader."""
    counts = outcomes(result)
    parts = [_counted_outcome(outcome, count) for outcome, count in counts.items() if count]
    samples = counted(sum(counts.values()), "sample")
    yield f"{result['dataset']['name']}: {samples}: {', '.join(parts)}"
    hint = advice(counts)
    if hint:
        yield hint


def _counted_outcome(outcome: str, count: int) -> str:
    """An outcome with its number, such as "2 errors"."""
    if outcome == scoring.ERROR:
        return counted(count, outcome)
    if outcome == CUT_OFF:
        outcome = "cut off at max_new_tokens"
    return f"{count:,} {outcome}"


def measures(result: dict) -> list[str]:
    """The names of the scores in a result: pass@1 and so on."""
    return [f"pass@{k}" for k in SAMPLES_OF if f"pass@{k}" in result]


def left_out(results: Iterable[dict]) -> dict[str, list[str]]:
    """The problems that the configuration leaves out, by data set."""
    by_set = {result["dataset"]["name"]: result["dataset"].get("left_out") for result in results}
    return {name: task_ids for name, task_ids in by_set.items() if task_ids}


def caveats(results: Iterable[dict]) -> Iterator[str]:
    """Remarks that a reader of the scores must know, one sentence each."""
    results = list(results)
    for name, task_ids in left_out(results).items():
        named = ", ".join(task_ids[:NAMED])
        if len(task_ids) > NAMED:
            named += ", ..."
        problems = counted(len(task_ids), "problem")
        data_set = set_in_words(name)
        yield one_line(f"Left out of {data_set}, as excluded or too long: {problems} ({named}).")
    count = sum(_passes_what_evalplus_fails(result) for result in results)
    if count:
        yield (
            f"EvalPlus itself fails every solution of {FAILED_BY_EVALPLUS}. {count} of these "
            "results count it as passed."
        )


def _passes_what_evalplus_fails(result: dict) -> bool:
    return any(
        row["task_id"] == FAILED_BY_EVALPLUS and row["base"] == PASSED for row in result["problems"]
    )


def backends_note(results: Mapping[str, dict]) -> Iterator[str]:
    """A remark for the reader if different backends generated the solutions.

    results: by model.
    """
    models: dict[str, list[str]] = {}
    for model, result in results.items():
        backend = result["settings"]["backend"]
        models.setdefault(backend, []).append(model)
    if len(models) > 1:
        parts = [f"with {backend}: {', '.join(names)}" for backend, names in models.items()]
        yield one_line(
            f"Generated {'; '.join(parts)}. The backends' logits differ in their last digits. In "
            "rare cases this changes a token."
        )
