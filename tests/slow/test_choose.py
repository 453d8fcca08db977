"""A sweep with `choose` run end to end: what it makes, and what another value adds."""

import json

import pytest

from xft.tools import verify

CHOICES = ["sft", "dense"]


@pytest.mark.ci
def test_a_value_that_is_added_runs_what_is_new_and_no_evaluation_twice(new_project):
    """The lowest rate is the worst after a few steps, so the chosen models stay the same."""
    project = new_project("choose")
    merge = project.folder / "mine.py"
    merge.write_text("def first(tensors, coefficients, base): return tensors[0]\n")
    evaluation = project.overlay["evaluation"] | {"models": ["base", *CHOICES]}
    rates = [1e-3, 1e-6]
    project.overlay = project.overlay | {
        **{"evaluation": evaluation, "choose": "validation", "seeds": [42, 43]},
        **{"data": {"limit": 64, "validation_rows": 6, "choice_rows": 8}},
        **{"sweep": {"moe_sft.learning_rate": rates, "merge.method": ["xft", "mine.py:first"]}},
    }
    ran = project.run()
    assert ran.count("sft") == ran.count("moe_sft") == 4 and ran.count("dense") == 8
    assert ran.count("choose") == 2
    evaluations = {path.name for path in project.folder.glob("store/eval/*")}
    assert len(evaluations) == 1 + 2 * len(CHOICES)
    assert project.run() == []

    chosen = {}
    for method in CHOICES:
        content = json.loads((project.results / f"chosen/{method}.json").read_text())
        chosen[method] = content["chosen"]["setting"]
        assert "learning_rate=0.001" in chosen[method]
        link = project.results / f"chosen/{method}/models/seed~43/config.json"
        assert link.is_file()
    text = (project.results / "summary.md").read_text()
    assert all(f"{method}: {setting}, of " in text for method, setting in chosen.items())

    sweep = project.overlay["sweep"] | {"moe_sft.learning_rate": [*rates, 1e-7]}
    ran = project.run(sweep=sweep)
    assert ran.count("sft") == ran.count("moe_sft") == 2 and ran.count("dense") == 4
    assert "eval" not in ran and "moe" not in ran
    assert {path.name for path in project.folder.glob("store/eval/*")} == evaluations
    verify.main([str(project.results)])
