"""docs/caching.md says for every key of the config which rules a change of it runs."""

import re
from pathlib import Path

import pytest
from project import Project

from xft.config.runs import overlaid
from xft.config.section import choices_of, needs, types_of
from xft.config.sections import XftConfig
from xft.config.validation import is_section

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).parents[2] / "docs" / "caching.md"
ROW = re.compile(r"\| (`.+`) \| (.+) \|")
# Values other than the project's own, for keys whose schema does not give one.
OTHERS = {
    "moe.upcycled_layers": [0],
    "moe.init_drop": 0.9,
    "moe_sft.expert_averaging": 0.5,
    "data.decontaminate_against": [],
    **dict.fromkeys(("moe_sft.ema_decay", "sft.ema_decay", "heal.ema_decay"), 0.5),
    **dict.fromkeys(("mixing.kl_weight", "heal.kl_weight", "heal.share"), 0.25),
    "data.instruction_column": "prompt",
    "data.response_column": "answer",
    "merge.lambdas": [0.85],
    "threads": 2,
    "data.template": "template.txt",
    "data.max_length": 512,
    "report_to": ["tensorboard"],
    "evaluation.base_prompt": "completion",
    "evaluation.top_p": 0.5,
    "evaluation.lm_eval": ["arc_easy"],
}
# Keys that cannot be changed by themselves in a dry run of the embedded project.
SKIPPED = {"base.model", "base.revision", "data.train", "data.revision", "data.split"}
SKIPPED |= {"evaluation.datasets", "evaluation.models", "merge.keep", "moe.shared_expert"}
SKIPPED |= {"results_dir", "seeds", "variants", "sweep"}
SKIPPED |= {  # together only
    f"{section}.{key}"
    for section in ("moe_sft", "sft", "mixing", "heal")
    for key in ("eval_steps", "keep", "early_stopping_patience", "launch", "processes", "nodes")
}
SKIPPED |= {
    f"{section}.{key}"
    for section in ("moe_sft", "sft", "heal")
    for key in ("offload_optimizer", "average_last", "average_every")
}
SKIPPED |= {"merge.select", "mixing.text"}
SKIPPED |= {"evaluation.backend"}  # its other value needs a package


def documented() -> dict[str, list[str]]:
    """The rules of each key, by the document."""
    rows = [match for line in DOCUMENT.read_text().splitlines() if (match := ROW.fullmatch(line))]
    stated = {
        name.strip("`"): rules.split(", ")
        for names, rules in map(re.Match.groups, rows)
        for name in names.split(", ")
    }
    return {key: stated.get(key) or stated[f"{key.rpartition('.')[0]}.*"] for key in keys()}


def keys() -> list[str]:
    found = []
    for name, field in XftConfig.model_fields.items():
        if is_section(field.annotation):
            found += [f"{name}.{key}" for key in field.annotation.model_fields]
        else:
            found.append(name)
    return found


CHANGED = sorted(set(keys()) - SKIPPED)
NOT_ASKED = [key for key in CHANGED if key.partition(".")[0] in ("sft", "heal")]


@pytest.mark.parametrize("key", [key for key in CHANGED if key not in NOT_ASKED])
def test_a_change_runs_what_the_document_says(finished, key):
    (finished.folder / "template.txt").write_text("{instruction}\n")
    expected = set(documented()[key]) - {"nothing"}
    if key != "evaluation.lm_eval":  # none of them is asked for
        expected -= {"sft", "heal", "validation_loss", "lm_eval"}
    if key == "data.validation_rows":
        expected.add("validation_loss")
    if "summary" in expected:
        expected.add("report")
    assert set(run_with(finished, key)) == expected


def test_a_change_of_what_is_not_asked_for_runs_nothing(finished):
    assert run_with(finished, *NOT_ASKED) == []


def run_with(finished, *changed: str) -> list[str]:
    """The rules that a run with other values of these keys would run."""
    settings = finished.overlay
    for key in changed:
        section, _, name = key.rpartition(".")
        value = other_value(finished, section, name, key)
        need = needs(XftConfig.model_fields[section].annotation).get(name) if section else None
        beside = {need.key: need.value or 5} if need else {}
        values = {name: value} | beside
        settings = overlaid(settings, {section: values} if section else values)
    return Project(finished.folder, settings).run("--dry-run")


def other_value(project: Project, section: str, name: str, key: str):
    """A valid value that the project's config does not have."""
    if key in OTHERS:
        return OTHERS[key]
    owner = XftConfig.model_fields[section].annotation if section else XftConfig
    field = owner.model_fields[name]
    given = project.overlay.get(section, {}).get(name, field.get_default())
    if choices := choices_of(field.annotation):
        return next(value for value in reversed(choices) if value != given)
    if types_of(field.annotation) == (bool,):
        return not given
    if given is None:
        return 5
    return given + 1
