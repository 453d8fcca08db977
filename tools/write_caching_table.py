"""Write the table of docs/caching.md: the rules that a change of each key runs."""

import contextlib
import re
from collections import Counter
from pathlib import Path

from xft.config.runs import RUN_KEYS, find_runs, leaves, overlaid
from xft.config.steps import STEPS
from xft.config.text import read_config
from xft.dag.experiment import Experiment

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "caching.md"
HEAD = "| a change of | runs |\n|---|---|\n"
MODELS = ["base", "sft", "moe_sft", "dense", "heal"]
# What no step reads.
SPECIAL = {
    "merge.keep": "best, if merge.keep is best",
    "merge.select": "best, if merge.keep is best",
    "seeds": "what a new run does not share with the others, summary",
    "variants": "what a new run does not share with the others, summary",
    "sweep": "what a new run does not share with the others, summary",
    "store": "what the other store does not hold",
    "results_dir": "nothing: the links are in the other folder",
    "evaluation.models": "summary, and what a new model needs",
    "evaluation.backend": "eval of base and dense, summary",
}


def table() -> str:
    """The table's rows. `section.*` means the keys of a section that no other row names."""
    runs = runs_by_key()
    usual = {
        section: Counter(text for key, text in runs.items() if _section(key) == section)
        for section in filter(None, map(_section, runs))
    }
    rows: dict[str, dict[str, None]] = {}
    for key, text in runs.items():
        section = _section(key)
        is_usual = section and usual[section].most_common(1)[0][0] == text
        name = f"{section}.*" if is_usual and usual[section][text] > 1 else key
        rows.setdefault(text, {})[name] = None
    lines = [
        f"| {', '.join(map('`{}`'.format, names))} | {text} |\n" for text, names in rows.items()
    ]
    return HEAD + "".join(lines)


def runs_by_key() -> dict[str, str]:
    """What a change of each key runs in the demonstration, with sft and heal evaluated."""
    config = read_config(ROOT / "config.yaml")
    shown = {"models": MODELS, "lm_eval": ["arc_easy"]}
    config = overlaid(config, {"evaluation": shown, "data": {"decontaminate_against": []}})
    with contextlib.chdir(ROOT):
        runs = find_runs(config)
        wants = Experiment(runs[0].config, runs).summary.chain()
        behind = [(wanted.rule, {part.rule for part in wanted.chain()}) for wanted in wants]
    found = {}
    for key in [*leaves(runs[0].config), *RUN_KEYS]:
        reading = {name for name, step in STEPS.items() if key in step.keys}
        running = {rule for rule, steps in behind if reading & steps}
        rules = [rule for rule in STEPS if rule in running]
        found[key] = SPECIAL.get(key) or ", ".join(rules) or "nothing"
    return found


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def document() -> str:
    """The whole document, with today's table in place of its own."""
    return re.sub(re.escape(HEAD) + r"(\|.*\n)*", lambda _: table(), DOCUMENT.read_text())


if __name__ == "__main__":
    DOCUMENT.write_text(document())
