"""Variants and seeds run end to end with all baselines, and share each stage of equal settings."""

import pytest

from xft.tools import verify

MODELS = ["base", "sft_flops", "soup", "uniform", "dense"]  # the demonstration has the others
VANILLA = {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}}


@pytest.mark.ci
def test_two_seeds_of_two_variants_run_once_and_all_that_they_make_is_sound(new_project):
    """Merges that were not kept are made again if they are asked for."""
    project = new_project("sweep")
    evaluation = project.overlay["evaluation"] | {"models": MODELS}
    project.overlay = project.overlay | {
        **{"moe": {"num_experts": 3, "num_experts_per_tok": 2}, "evaluation": evaluation},
        **{"data": {"limit": 64, "validation_rows": 6}, "merge": {"keep": "none"}},
        **{"seeds": [42, 43], "variants": {"xft": {}, "vanilla": VANILLA}},
    }
    project.run()
    assert project.run() == []
    verify.main([str(project.results), "--full"])
    merged = "dense/lam~0.75/model.safetensors"
    assert not any(project.results.rglob(merged))
    assert project.run("results/dense/lam~0.75", merge={"keep": "all"}) == ["dense"]
    assert (project.results / merged).is_file()
