"""Results folders with solutions that try to run in the reader's browser."""

import json
from itertools import cycle

from evaluations import write_evaluation, write_table

from workflow_scripts import summary

HOSTILE = [
    "<script>document.title = 'broken in'</script>",
    "</pre></details><img src=x onerror=\"document.title = 'broken in'\">",
    "<svg/onload=\"document.title = 'broken in'\">",
    "]]></script><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}",
]


def write_results(folder, models: dict[str, int], count=20, seeds=(), families=("T",)) -> None:
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
            about = {"dataset": "own", "model": f"{prefix}{model}", "families": families}
            file = write_evaluation(folder / place, base=solved, plus=solved, count=count, **about)
            problems = json.loads(file.read_text())["problems"]
            solutions = [
                {"task_id": problem["task_id"], "number": 0, "solution": code}
                for problem, code in zip(problems, cycle(HOSTILE), strict=False)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in solutions)
            file.with_name("own.generations.jsonl").write_text(lines)
            rows.append({"model": model, "dataset": "own", "seed": seed, "eval": place})
    table = write_table(folder / "runs.csv", rows)
    summary.main(["--runs", str(table), "--out", str(folder / "summary.csv")])
