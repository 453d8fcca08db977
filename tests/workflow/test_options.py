"""Options and targets that Snakemake would take, and that a run refuses."""

from types import SimpleNamespace

import pytest
from working_folder import fill, wants

from xft.common.errors import UserError
from xft.dag.snakemake_options import check_not_forced
from xft.dag.snakemake_run import SnakemakeRun

pytestmark = pytest.mark.usefixtures("place")


def settings(**options) -> SimpleNamespace:
    """Those of Snakemake's graph."""
    none = dict.fromkeys(("forcerun", "forcetargets", "forceall", "targets", "until", "omit_from"))
    return SimpleNamespace(**{name: options.get(name, ()) for name in none})


def test_what_is_whole_is_not_made_by_force():
    run = wants()
    fill(run)
    check_not_forced(settings(), run)
    for options, told in (
        ({"forcetargets": True, "targets": {"results/dense/lam~0.75"}}, r"store/dense/\w{16}\. To"),
        ({"forcerun": {"moe_sft"}}, r"deleting its entry: store/moe_sft/\w{16}\. To"),
    ):
        with pytest.raises(UserError, match=told):
            check_not_forced(settings(**options), run)


@pytest.mark.parametrize("option", ["until", "omit-from"])
def test_a_rule_that_does_not_exist_is_told_with_a_similar_one(option):
    snakemake = SimpleNamespace(workflow=SimpleNamespace(rules=[SimpleNamespace(name="dense")]))
    named = settings(**{option.replace("-", "_"): ["dens"]})
    with pytest.raises(SystemExit, match=f"^--{option} dens: .* did you mean dense?"):
        SnakemakeRun._check_rule_names(snakemake, named)


def test_a_name_that_is_no_result_is_told_with_the_results():
    with pytest.raises(SystemExit) as stop:
        SnakemakeRun.named(SimpleNamespace(run=wants()), "none/of/it")
    told, *lines = stop.value.code.splitlines()
    assert told == "results/none/of/it is no result of this configuration"
    assert "  results/dense/lam~0.75" in lines
