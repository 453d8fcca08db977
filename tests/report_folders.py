"""Results folders with solutions that try to run in the reader's browser."""

import json

from evaluations import write_evaluation

from workflow_scripts import summary

HOSTILE = [
    "<script>document.title = 'broken in'</script>",
    "</pre></details><img src=x onerror=\"document.title = 'broken in'\">",
    "<svg/onload=\"document.title = 'broken in'\">",
    "]]></script><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}",
]


def write_results(folder, models: dict[str, int], count=20, seeds=(), more="") -> None:
    """A results folder with its summary.

    models: the problems that each solves, and one more with each further seed. more: text behind
    each solution.
    """
    files = []
    for number, seed in enumerate(("", *(f"seed~{seed}/" for seed in seeds))):
        for model, first in models.items():
            solved = first + number
            file = folder / f"{seed}eval" / model / "own.json"
            write_evaluation(
                file, base=solved, plus=solved, count=count, dataset="own", model=f"{seed}{model}"
            )
            result = json.loads(file.read_text())
            result["versions"] = {"torch": "2.0"}
            lines = []
            for problem in result["problems"]:
                problem |= {"sample": 0, "failed_call": None}
                code = HOSTILE[len(lines) % len(HOSTILE)] + more
                row = {"task_id": problem["task_id"], "number": 0, "solution": code}
                lines.append(json.dumps(row) + "\n")
            file.write_text(json.dumps(result))
            file.with_name("own.generations.jsonl").write_text("".join(lines))
            files.append(str(file))
    words = ["--own-seed", "42"] if seeds else []
    summary.main(["--evals", *files, *words, "--out", str(folder / "summary.csv")])
