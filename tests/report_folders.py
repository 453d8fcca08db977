"""Results folders, also with solutions that try to run in the reader's browser."""

import csv
import json
from itertools import cycle
from pathlib import Path

import numpy as np
from evaluations import write_evaluation, write_table
from problem_files import write_problems

from workflow_scripts import summary
from xft.artifacts.manifest import LOSS_RESULT

HOSTILE = [
    "<script>document.title = 'broken in'</script>",
    "</pre></details><img src=x onerror=\"document.title = 'broken in'\">",
    "<svg/onload=\"document.title = 'broken in'\">",
    "]]></script><script src=//evil.example></script>",
    "{{ 7 * 7 }}{% raw %}",
]


COLUMNS = ("diversity", "contamination", "swept", "plain_variant")  # of the table, as they are


class Runs:
    """Results in a folder, and the table that names them."""

    def __init__(self, root: Path):
        self.root, self.rows = root, []

    def add(self, model, passed, *, variant="", seed=42, dataset="mbpp", count=100, **more) -> None:
        """Add an evaluation. A path carries the model, the variant, and the seed if it is not 42.
        That of base carries a seed only with a temperature: else it is evaluated once, and the rows
        of all seeds name it.

        more: options of `write_evaluation`, validation losses and further columns; path: that of a
        model that variants share.
        """
        has_seed = model != "base" or more.get("temperature")
        of_seed = f"seed~{seed}" if has_seed and seed != 42 else ""
        place = "/".join(filter(None, [variant, of_seed, model]))
        path = more.pop("path", place)
        columns = {name: more.pop(name) for name in COLUMNS if name in more}
        row = {"model": model, "variant": variant, "seed": seed, "dataset": dataset} | columns
        if "losses" in more:
            row["validation_loss"] = file = f"validation/{path}.json"
            self.write_loss(file, path, more.pop("losses"), more.pop("tokens", "t"))
        row["eval"] = f"eval/{place}/{dataset}.json"
        options = {"model": path, "dataset": dataset, "count": count} | more
        write_evaluation(self.root / row["eval"], base=passed, plus=passed, **options)
        self.rows.append(row)

    def add_all(self, solved: dict[str, int], **about) -> None:
        """Add an evaluation of each model. solved: the problems it solves. about: see `add`."""
        for model, passed in solved.items():
            self.add(model, passed, **about)

    def write_loss(self, file: str, model: str, losses, tokens: str) -> None:
        """Losses of rows. All rows have 3 tokens but the first, which has 6."""
        counts = [6, *[3] * (len(losses) - 1)]
        rows = [{"loss": v, "tokens": n} for v, n in zip(losses, counts, strict=True)]
        content = {"model": {"path": model, "id": None}, "tokens": tokens, "rows": rows}
        content["loss"] = float(np.average(losses, weights=counts))
        LOSS_RESULT.write(self.root / file, content, parameters={}, inputs={})

    def summarise(self, *words) -> tuple[str, list[dict], list[dict]]:
        """Run the step. The text, and the rows of both CSV files."""
        table, out = write_table(self.root / "runs.csv", self.rows), self.root / "summary.csv"
        summary.main(["--runs", str(table), *words, "--out", str(out)])
        tables = []
        for name in ("summary.csv", "comparisons.csv"):
            with out.with_name(name).open(newline="") as file:
                tables.append(list(csv.DictReader(file)))
        return out.with_suffix(".md").read_text(), *tables


def write_results(folder, models, *, seeds=(), losses=(), **about) -> None:
    """A results folder with its summary.

    models: the problems that each solves, and one more with each further seed but for base.
    losses: of each model, on two validation rows with 2 tokens and 1 token. about: see
    `write_evaluation`.
    """
    runs = Runs(folder)
    options = {"dataset": "own", "count": 20} | about
    for number, seed in enumerate((42, *seeds)):
        for model, solved in models.items():
            measured = {"losses": losses[model]} if losses else {}
            passed = solved if model == "base" else solved + number
            runs.add(model, passed, seed=seed, **options, **measured)
            write_solutions(folder / runs.rows[-1]["eval"])
    runs.summarise()


def write_solutions(file: Path) -> None:
    """The hostile solutions in turn, as what was written for the problems of an evaluation."""
    problems = json.loads(file.read_text())["problems"]
    rows = [
        {"task_id": problem["task_id"], "number": 0, "solution": code, "completion": code}
        for problem, code in zip(problems, cycle(HOSTILE), strict=False)
    ]
    write_problems(file.with_suffix(".generations.jsonl"), rows)
