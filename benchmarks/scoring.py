"""Compares this project's sandboxed scoring with EvalPlus's own evaluator, which has no sandbox.

Both ways read the problems and the expected outputs, which already exist, and judge the canonical
solutions with the same number of workers. They run alternately, each in its own process. EvalPlus
gets time and memory limits that a busy machine does not reach. Memory: the peak anonymous memory of
the judging process alone, and together with all processes that it starts.

    python -m benchmarks.scoring --dataset HumanEvalPlus.jsonl.gz
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.peak import observe
from benchmarks.timing import markdown_table
from xft.evaluation import call_scoring, forms
from xft.evaluation.call_scoring import CallScorer
from xft.evaluation.scorers import find_bubblewrap
from xft.evaluation.scoring import PASSED

MEMORY_LIMIT = str(8 * 2**30)
TIME_LIMITS = {"min_time_limit": 10.0, "gt_time_limit_factor": 10.0}
OVERRIDES = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_inputs(args.dataset, folder, args.workers)
        ways = {"ours": ours, "EvalPlus": evalplus}
        cases = {
            name: partial(way, args.dataset.resolve(), folder, args.workers)
            for name, way in ways.items()
        }
        observe(cases["EvalPlus"])  # EvalPlus makes and caches its ground truth
        runs = {name: [] for name in cases}
        for _ in range(args.repeats):
            for name, prepare in cases.items():
                runs[name].append(observe(prepare, with_family=True))
        passed = {name: passed_by(name, folder) for name in cases}
    print(f"{args.dataset.name}, {args.workers} workers, {args.repeats} times each")
    print(table(runs, passed))


def prepare_inputs(dataset: Path, folder: Path, workers: int) -> None:
    """Write the canonical solutions for EvalPlus, and this project's ground truth."""
    found = forms.load_problems(str(dataset))
    rows = (
        json.dumps({"task_id": p.task_id, "solution": p.canonical_program}) + "\n"
        for p in found.problems
    )
    (folder / "samples.jsonl").write_text("".join(rows))
    call_scoring.write(folder, CallScorer(found, find_bubblewrap(), workers).expected())


def ours(dataset: Path, folder: Path, workers: int) -> Callable[[], None]:
    def work() -> None:
        found = forms.load_problems(str(dataset))
        truth = call_scoring.read(folder)
        solutions = [(p, p.canonical_program) for p in found.problems]
        verdicts = CallScorer(found, find_bubblewrap(), workers).score(truth, solutions)
        (folder / "ours").write_text(str(sum(v.plus == PASSED for v in verdicts)))

    return work


def evalplus(dataset: Path, folder: Path, workers: int) -> Callable[[], None]:
    first, *_ = forms.load_problems(str(dataset)).problems
    form = "mbpp" if first.is_mbpp else "humaneval"
    os.environ |= {
        OVERRIDES[form]: str(dataset),
        "XDG_CACHE_HOME": str(folder),
        "EVALPLUS_MAX_MEMORY_BYTES": MEMORY_LIMIT,
    }
    result = folder / "samples_eval_results.json"
    result.unlink(missing_ok=True)

    def work() -> None:
        multiprocessing.set_start_method("fork", force=True)  # as if a user had started EvalPlus
        from evalplus.evaluate import evaluate

        evaluate(form, samples=str(folder / "samples.jsonl"), parallel=workers, **TIME_LIMITS)
        statuses = json.loads(result.read_text())["eval"].values()
        passed = sum(s[0]["base_status"] == s[0]["plus_status"] == "pass" for s in statuses)
        (folder / "EvalPlus").write_text(str(passed))
        os._exit(0)  # one of its threads would sleep for up to 20 more seconds

    return work


def passed_by(name: str, folder: Path) -> str:
    return (folder / name).read_text()


def table(runs: dict, passed: dict[str, str]) -> str:
    """Markdown: median seconds, their ratio to EvalPlus's, peak memory and passed problems."""
    medians = {
        name: statistics.median(run.seconds for run in of_way) for name, of_way in runs.items()
    }
    rows = (
        (
            name,
            f"{medians[name]:.1f}",
            f"{medians[name] / medians['EvalPlus']:.2f}",
            f"{max(run.peak for run in of_way) / 1e9:.2f}",
            f"{max(run.family for run in of_way) / 1e9:.2f}",
            passed[name],
        )
        for name, of_way in runs.items()
    )
    return markdown_table(
        ("", "median s", "of EvalPlus's", "peak GB", "all processes GB", "passed"), rows
    )


if __name__ == "__main__":
    main()
