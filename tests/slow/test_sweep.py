"""Variants and seeds run end to end with all baselines, and share each stage of equal settings."""

import pytest

from xft.tools import verify

pytestmark = pytest.mark.ci
MODELS = ["base", "sft_flops", "soup", "uniform", "dense"]  # the demonstration has the others
VANILLA = {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}}


@pytest.fixture(scope="module")
def project(new_project):
    """A project in which two seeds of two variants have run."""
    project = new_project("sweep")
    evaluation = project.overlay["evaluation"] | {"models": MODELS}
    project.overlay = project.overlay | {
        **{"moe": {"num_experts": 3, "num_experts_per_tok": 2}, "evaluation": evaluation},
        **{"data": {"limit": 64, "validation_rows": 6}, "merge": {"keep": "none"}},
        **{"seeds": [42, 43], "variants": {"xft": {}, "vanilla": VANILLA}},
    }
    project.run()
    return project


def test_nothing_runs_again_and_all_that_was_made_is_sound(project):
    assert project.run() == []
    verify.main([str(project.results), "--full"])


def test_merges_that_were_not_kept_are_made_again_if_asked_for(project):
    assert not any(project.results.rglob("dense/lam~0.75/model.safetensors"))
    assert project.run("results/dense/lam~0.75", merge={"keep": "all"}) == ["dense"]
    assert (project.results / "dense" / "lam~0.75" / "model.safetensors").is_file()
