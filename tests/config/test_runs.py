"""The runs that variants, a sweep and seeds make of one configuration."""

import pytest

from xft.common.errors import UserError
from xft.config.runs import find_runs

OWN = {"base": {"model": "x"}, "data": {"train": "y"}}
OF_TWO = {"data": {"limit": 2}}


def paths(**keys) -> list[tuple[str, str]]:
    """The name of each run, and what its paths carry."""
    runs = find_runs(OWN | keys)
    return [(run.name, "/".join("~".join(pair) for pair in run.changes.items())) for run in runs]


def test_variants_sweep_and_seeds_are_multiplied():
    vanilla = {"moe": {"shared_expert": False}, "evaluation": {"models": ["moe_sft"]}}
    variants = {"xft": {}, "vanilla": vanilla}
    sweep = {"moe_sft.learning_rate": [5e-5, "2e-5"], "mixing.learning_rate": [0.1]}
    found = paths(variants=variants, sweep=sweep, seeds=[42, 1])
    assert len(found) == 8
    own = "moe_sft.learning_rate=5e-05, mixing.learning_rate=0.1"
    assert found[0] == (f"xft, {own}", "mixing.learning_rate~0.1")
    # Section sft has the values of moe_sft that it does not set itself.
    rate = "moe_sft.learning_rate~2e-05/sft.learning_rate~2e-05/mixing.learning_rate~0.1"
    name = f"vanilla, {own.replace('5e', '2e')}"
    assert found[-1] == (name, f"moe.shared_expert~false/{rate}/seed~1")


def test_each_run_has_its_variant_and_its_swept_values_as_they_are_used():
    """A variant without changes has no name. 2e-5 is a text in YAML 1.1, and a number here."""
    variants = {"xft": {}, "late": {"moe_sft": {"max_steps": 9}}}
    sweep = {"moe_sft.learning_rate": ["2e-5", 5e-5]}
    runs = find_runs(OWN | {"variants": variants, "sweep": sweep, "seeds": [1, 2]})
    rates = [{"moe_sft.learning_rate": rate} for rate in (2e-5, 5e-5)]
    points = [(variant, rate) for variant in ("", "late") for rate in rates]
    assert [(run.variant, run.swept) for run in runs] == [point for point in points for _ in "12"]
    (run,) = find_runs(OWN)
    assert (run.variant, run.swept) == ("", {})


def test_what_has_results_of_its_own_is_in_no_path():
    models = {"evaluation": {"models": ["base"]}, "merge": {"lambdas": [0.5]}}
    assert paths(variants={"few": models}) == [("", "")]


def test_values_have_texts_of_their_own_that_are_names_of_folders():
    for key, values in (
        ("data.train", ["a/b.jsonl", "a-b.jsonl", "a/b", "true", "1", "null", "x" * 80, "ü/../é"]),
        ("moe.upcycled_layers", [[0], [0, 1], None]),
        ("data.limit", [1, 11, None]),
    ):
        texts = [path for _, path in paths(sweep={key: values})]
        assert len(set(texts)) == len(values)
        assert all("/" not in text and len(text) < 80 and ".." not in text for text in texts)


def test_a_fault_has_one_message_before_anything_runs():
    for keys, message in (
        ({"sweep": {"data.limit": [2, "2"]}}, "sweep with data.limit = 2: it is the same as confi"),
        ({"sweep": {"moe": [{"rank": 2}]}}, "sweep: moe is a section. Name one of its keys"),
        ({"variants": {"a": {"results_dir": "x"}}}, "variants.a: results_dir cannot vary: "),
        ({"sweep": {"moe.num_expert": [4]}}, "sweep: moe.num_expert is not a known key: did you "),
        ({"sweep": {"rate": [4]}}, "sweep: rate is not a known key: did you mean moe_sft.learning"),
        ({"sweep": {"moe.zzz": [4]}}, "sweep: moe.zzz is not a known key. docs/configuration.md l"),
        ({"variants": {"a/b": {}}}, 'variants: "a/b" is not a name. Use letters, digits'),
        ({"variants": {"a": {}, "b": {"data": {"limit": None}}}}, "variants.b: it is the same as"),
        ({"variants": {"a": OF_TWO}, "sweep": {"data.limit": [1, 2]}}, "variants.a: data.limit is"),
        ({"sweep": {"moe.num_experts": [8, 3]}}, "sweep with moe.num_experts = 3: moe: num_ex"),
        ({"seeds": [*range(501)], "sweep": {"data.limit": [1, 2]}}, "variants x sweep x seeds"),
        ({"evaluation": {"models": ["soup"]}, "seeds": [3]}, "evaluation.models names soup, which"),
    ):
        with pytest.raises(UserError) as caught:
            find_runs(OWN | keys)
        assert str(caught.value).startswith(f"config: {message}")
