"""Results folders with solutions that try to run in the reader's browser."""

import json
from itertools import cycle

from evaluations import write_evaluation, write_table

from workflow_scripts import summary
from xft.reporting.formats import LOSS_RESULT

HOSTILE = [
    "<script>document.title = 'broken in'</script>",
    "</pre></details><img src=x onerror=\"document.title = 'broken in'\">",
    "<svg/onload=\"document.title = 'broken in'\">",
    "]]></script><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}",
]


def write_results(folder, models, count=20, seeds=(), families=("T",), losses=(), about=()) -> None:
    """A results folder with its summary.

    models: the problems that each solves, and one more with each further seed. families: of the
    problems. about: see `write_evaluation`. losses: of each model, on two validation rows with 2
    tokens and 1 token.
    """
    rows = []
    for number, seed in enumerate((42, *seeds)):
        for model, first in models.items():
            solved = first + number
            prefix = f"seed~{seed}/" if number else ""
            place = f"{prefix}eval/{model}/own.json"
            more = {"dataset": "own", "model": f"{prefix}{model}", "families": families}
            more |= {"count": count, "about": about}
            file = write_evaluation(folder / place, base=solved, plus=solved, **more)
            problems = json.loads(file.read_text())["problems"]
            tasks = [{"task_id": problem["task_id"], "number": 0} for problem in problems]
            both = zip(tasks, cycle(HOSTILE), strict=False)
            lines = [
                json.dumps(task | {"solution": code, "completion": code}) + "\n"
                for task, code in both
            ]
            file.with_name("own.generations.jsonl").write_text("".join(lines))
            row = {"model": model, "dataset": "own", "seed": seed, "eval": place}
            if losses:
                row["validation_loss"] = losses_file = f"{prefix}validation/{model}.json"
                measured = zip(losses[model], (2, 1), strict=True)
                content = {"rows": [{"loss": loss, "tokens": tokens} for loss, tokens in measured]}
                content["loss"] = (2 * losses[model][0] + losses[model][1]) / 3
                LOSS_RESULT.write(folder / losses_file, content, parameters={}, inputs={})
            rows.append(row)
    table = write_table(folder / "runs.csv", rows)
    summary.main(["--runs", str(table), "--out", str(folder / "summary.csv")])
