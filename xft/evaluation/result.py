"""Builds, reads and writes the result of an evaluation. Equal runs write equal bytes."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from xft.artifacts.manifest import Recipe
from xft.artifacts.results import ResultFormat
from xft.evaluation.ground_truth import TEST_SETS
from xft.evaluation.judging import PASSED
from xft.evaluation.problems import ProblemSet
from xft.evaluation.samples import Sample, samples_path
from xft.evaluation.scoring import Verdict

RESULT = ResultFormat("eval", "eval", 2, "pass@1")
TEST_NAMES = {"base": "base tests", "plus": "base + extra tests"}  # EvalPlus's words
SAMPLES_OF = (1, 10, 100)  # k of pass@k
# EvalPlus 0.3.1 counts every solution of this problem as failed.
FAILED_BY_EVALPLUS = "HumanEval/32"


def package_versions(*names: str) -> dict[str, str]:
    """The installed versions, without importing the packages."""
    return {name: version(name) for name in names}


def build_result(
    problem_set: ProblemSet, samples: Sequence[Sample], verdicts: Sequence[Verdict], settings: dict
) -> dict:
    """The content of the result file. settings: of the scoring; the samples have their own.

    pass@k is the unbiased estimate of the share of problems with a passing sample among k samples.
    With one sample each, pass@1 is the share of problems that pass. passed: the number of samples.
    """
    origin = samples[0].origin.model_dump()
    scoring_versions = {"python": platform.python_version()} | package_versions("evalplus", "numpy")
    passed = {name: [getattr(v, name) for v in verdicts].count(PASSED) for name in TEST_SETS}
    return {
        "model": origin["model"],
        "dataset": {
            "name": problem_set.name,
            "file": problem_set.file.name,
            "sha256": problem_set.sha256,
            "problems": len(problem_set.problems),
        },
        "settings": origin["settings"] | settings,
        "versions": origin["versions"] | scoring_versions,
        **_pass_at_k(samples, verdicts),
        "passed": passed,
        "problems": [
            {
                "task_id": sample.task_id,
                "sample": sample.number,
                "prompt_sha256": sample.prompt_sha256,
                "base": verdict.base,
                "plus": verdict.plus,
                "finish": sample.finish,
                "failed_call": verdict.failed_call,
            }
            for sample, verdict in zip(samples, verdicts, strict=True)
        ],
    }


def _pass_at_k(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> dict[str, dict]:
    """pass@k for each k of `SAMPLES_OF` up to the number of samples of a problem."""
    from evalplus.eval import estimate_pass_at_k

    count = samples[-1].number + 1
    shares = {}
    for k in (k for k in SAMPLES_OF if k <= count):
        shares[f"pass@{k}"] = {}
        for tests in TEST_SETS:
            statuses = [getattr(verdict, tests) for verdict in verdicts]
            passed = [
                statuses[start : start + count].count(PASSED)
                for start in range(0, len(statuses), count)
            ]
            shares[f"pass@{k}"][tests] = float(estimate_pass_at_k(count, passed, k).mean())
    return shares


def solved_shares(result: dict, tests: str) -> list[float]:
    """The share of samples that pass, for each problem of a result."""
    by_problem: dict[str, list[bool]] = {}
    for row in result["problems"]:
        by_problem.setdefault(row["task_id"], []).append(row[tests] == PASSED)
    return [sum(passed) / len(passed) for passed in by_problem.values()]


def has_several_samples(result: dict) -> bool:
    """Whether a model wrote several solutions for each problem."""
    return result["settings"].get("samples", 1) > 1


def measures(result: dict) -> list[str]:
    """The names of the scores in a result: pass@1 and so on."""
    return [f"pass@{k}" for k in SAMPLES_OF if f"pass@{k}" in result]


def caveats(results: Iterable[dict]) -> list[str]:
    """Remarks that a reader of the scores must know, one sentence each."""
    count = sum(
        any(row["task_id"] == FAILED_BY_EVALPLUS and row["base"] == PASSED for row in rows)
        for rows in (result["problems"] for result in results)
    )
    if not count:
        return []
    return [
        f"EvalPlus itself fails every solution of {FAILED_BY_EVALPLUS}. {count} of these results "
        "count it as passed."
    ]


def backends_note(backends: Mapping[str, str]) -> list[str]:
    """A remark for the reader if different backends generated the solutions.

    backends: by model.
    """
    models: dict[str, list[str]] = {}
    for model, backend in backends.items():
        models.setdefault(backend, []).append(model)
    if len(models) < 2:
        return []
    parts = [f"with {backend}: {', '.join(names)}" for backend, names in models.items()]
    return [
        f"Generated {'; '.join(parts)}. The backends' logits differ in their last digits. In rare "
        "cases this changes a token."
    ]


def write_result(path: Path, result: dict, ground_truth: str | None, recipe: Recipe) -> None:
    """Write a result file whole or not at all, then the manifest of the result and generations.

    ground_truth: the artifact's id; None if the ground truth was computed in the same step.
    """
    inputs = {"model": result["model"]["id"], "dataset": result["dataset"]["sha256"]}
    RESULT.write(
        path,
        result,
        parameters=result["settings"],
        inputs=inputs | {"ground_truth": ground_truth},
        beside=[samples_path(path)],
        recipe=recipe,
    )


read_result = RESULT.read
