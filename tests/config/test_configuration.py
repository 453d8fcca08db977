"""The configuration: what is accepted, what is completed, what the messages say; and what is wrong
with the text of its file.
"""

import copy
import math
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xft.common.errors import UserError
from xft.config import sections as keys
from xft.config.reading import changes, check_lambda, complete, read_config, values_to_change
from xft.config.section import Needs, Section

ROOT = Path(__file__).parents[2]
MINIMAL = {"base": {"model": "resources/base"}, "data": {"train": "rows.jsonl"}}
KEEPS_BEST, VLLM = {"keep": "best", "eval_steps": 5}, {"backend": "vllm"}


def with_value(key: str, value: object) -> dict:
    """MINIMAL with one more value, at "section.key" or "key"."""
    config = copy.deepcopy(MINIMAL)
    *sections, name = key.split(".")
    owner = config
    for section in sections:
        owner = owner.setdefault(section, {})
    owner[name] = value
    return config


def fault(config: dict) -> str:
    with pytest.raises(UserError) as caught:
        complete(config, "config.yaml")
    return str(caught.value)


def test_text_stands_for_what_it_spells():
    """`snakemake --config 'moe={num_experts: 7}'` hands on text."""
    for key, text, value in (
        ("moe.num_experts", "7", 7),
        ("moe.shared_expert", "True", True),
        ("moe_sft.learning_rate", "5e-5", 5e-5),
        ("moe.upcycled_layers", ["2", "0"], [0, 2]),
        ("moe_sft.max_steps", "null", None),
        ("base.model", "null", "null"),
        ("data.instruction_column", "1", "1"),
    ):
        found = complete(with_value(key, text))
        for name in key.split("."):
            found = getattr(found, name)
        assert (found, type(found)) == (value, type(value))


def test_a_fault_is_explained():
    for key, value, message in (
        ("sede", 1, "sede is not a known key: did you mean seed?"),
        ("moe.upcycled_layers", [1, 1], "moe.upcycled_layers = [1, 1]: names 1 more than once"),
        ("data.qqq", 1, "data.qqq is not a known key: known keys are bad_rows, "),
        ("lambdas", [0.5], "lambdas is not a known key: did you mean lambdas in merge?"),
        ("train_epochs", 2, "mean num_train_epochs in moe_sft or in sft or in "),
        ("seed", 2**32, "seed = 4294967296: "),
        ("seeds", 42, "seeds = 42: should be a list, such as [42]"),
        ("data.instruction_column", "response", "and response_column are both response"),
        ("moe_sft", 5, "keys, such as {num_train_epochs: ...}"),
        ("moe_sft.learning_rate", math.nan, "learning_rate = NaN: "),
        ("moe_sft.num_train_epochs", 1e300, "num_train_epochs = 1e+300: must be at most 1e+12"),
        ("base.revision", "main", "must be a commit hash of 40 hexadecimal digits"),
        ("merge.lambdas", ["a half"], "must be a decimal number from 0 to 1"),
        ("merge.lambdas", [0.75, "0.750"], "names 0.75 more than once"),
        ("results_dir", yaml.safe_load("2024-01-01"), 'results_dir = "2024-01-01": '),
        ("moe.num_experts_per_tok", 1, "num_experts_per_tok = 1: must be at least 2, because"),
        ("moe.shared_expert", False, "evaluation.models names dense, but without"),
    ):
        text = fault(with_value(key, value))
        assert text.startswith("config.yaml: ")
        assert message in text


def test_a_key_without_an_effect_is_refused():
    for section, own_keys, needed, message in (
        ("data", {"split": "test"}, {"train": "o/n", "revision": "0" * 40}, "revision = null"),
        ("sft", {"lora_alpha": 16}, {"lora_rank": 8}, "no effect with lora_rank = null"),
        ("evaluation", {"samples": 10}, {"temperature": 0.2}, "no effect with temperature = 0.0"),
        ("moe", {"rank": 8, "lora_alpha": 1}, {"experts": "lora"}, "rank and lora_alpha, or set"),
    ):
        own = MINIMAL.get(section, {})
        rows = {"data": MINIMAL["data"] | {"validation_rows": 5}}
        text = fault(MINIMAL | rows | {section: own | own_keys})
        assert text.startswith(f"config.yaml: {section}: ")
        assert message in text
        complete(MINIMAL | rows | {section: rows.get(section, {}) | own_keys | needed})
        # A complete configuration names every key, with its default where it has no effect.
        defaults = keys.WorkflowConfig.model_fields[section].annotation.model_fields
        named = {key: defaults[key].get_default() for key in own_keys}
        complete(MINIMAL | rows | {section: own | named})


def test_a_key_that_needs_one_of_another_class_is_no_declaration():
    with pytest.raises(TypeError, match="Temperature lacks keys that its keys need: temperature"):

        class Temperature(Section):
            top_p: Annotated[float, Needs("temperature")] = 1.0


def test_the_baseline_takes_over_no_key_that_has_no_effect_on_it():
    tuning = {"eval_steps": 5, "keep": "best", "learning_rate": 1e-3}
    rows = {"data": MINIMAL["data"] | {"validation_rows": 5}}
    for none in (None, "null"):
        config = complete(MINIMAL | rows | {"moe_sft": tuning, "sft": {"eval_steps": none}})
        assert (config.sft.keep, config.sft.learning_rate) == ("last", 1e-3)
    own = {"sft": {"eval_steps": None, "keep": "best"}}
    assert "sft: keep = best: no effect" in fault(MINIMAL | rows | {"moe_sft": tuning} | own)


def test_beside_a_tuned_model_no_key_of_the_training_has_an_effect():
    tuned = {"model": "tuned", "max_steps": 3, "keep": "best"}
    text = fault(MINIMAL | {"moe_sft": tuned})
    assert "max_steps = 3, keep = best: no effect with model = tuned. Leave out max_s" in text
    baseline = {"moe_sft": {"max_steps": 3}, "sft": {"model": "dense"}}
    config = complete(MINIMAL | baseline)
    assert (config.moe_sft.model, config.sft.model, config.sft.max_steps) == (None, "dense", None)
    assert complete(config.model_dump()) == config
    config = complete(MINIMAL | {"moe_sft": {"model": "tuned"}})
    assert config.sft == complete(MINIMAL).sft
    noisy = MINIMAL | {"moe_sft": {"model": "tuned"}, "moe": {"init": "a.py:b"}}
    assert "moe.init = a.py:b: no effect with moe_sft.model, unless evaluat" in fault(noisy)
    complete(noisy | {"evaluation": {"models": ["moe", "moe_sft"]}})
    for name, section in (("sft_flops", "moe_sft"), ("sft_flops", "sft"), ("soup", "sft")):
        models = {section: {"model": "tuned"}, "evaluation": {"models": [name]}}
        assert f"{section}.model is no training, as {name} needs" in fault(MINIMAL | models)


def test_variables_in_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("PLACE", "/data")
    for text in ("$PLACE/x", "${PLACE}/x"):
        assert complete(with_value("results_dir", text)).results_dir == "/data/x"
    assert complete(with_value("results_dir", "5$")).results_dir == "5$"
    for text in ("a/$NOWHERE/x", "${NOWHERE}", "$PLACE/$NOWHERE"):
        message = f'results_dir = "{text}": names the variable NOWHERE, which is not set'
        assert message in fault(with_value("results_dir", text))


def test_missing_and_strange_keys():
    assert "data.train is missing" in fault({**MINIMAL, "data": {}})
    base, data = fault({"merge": {"lambdas": [0.5]}}).splitlines()
    assert "base is missing. To change the demonstration, merge your file on top of it" in base
    assert data == "config.yaml: data is missing"


def test_the_baseline_is_trained_as_the_mixture_where_nothing_else_is_said():
    tuning = {"max_steps": 7, "learning_rate": "1e-3", "callbacks": ["a.py:B"]}
    own = {"max_steps": None, "num_train_epochs": 5}
    config = complete(MINIMAL | {"moe_sft": tuning, "sft": own})
    shared = keys.SftConfig.model_fields.keys() & keys.MoeSftConfig.model_fields
    differing = {k for k in shared if getattr(config.sft, k) != getattr(config.moe_sft, k)}
    assert differing == {"max_steps", "num_train_epochs", "callbacks"}
    assert (config.sft.max_steps, config.sft.num_train_epochs) == (None, 5.0)
    assert complete(config.model_dump()) == config


def test_the_baseline_of_low_rank_experts_is_low_rank():
    without = [({}, {"lora_rank": None}), ({}, {"model": "tuned"}), ({"train_rest": "full"}, {})]
    cases = [({"rank": 8, "lora_alpha": 64}, {}, 8), *((*case, None) for case in without)]
    for moe, own, rank in cases:
        config = complete(MINIMAL | {"moe": {"experts": "lora"} | moe, "sft": own})
        assert (config.sft.lora_rank, config.sft.lora_alpha) == (rank, 64)
        assert complete(values_to_change(config)) == config
        assert rank is None or not values_to_change(config)["sft"]


def test_values_that_do_not_fit_together_are_named():
    for sections, message in (
        ({"sft": {"ema_decay": 0.9, **KEEPS_BEST}}, "ema_decay = 0.9, keep = best: the average"),
        ({"mixing": {"warmup_steps": 4, "max_steps": 3}}, "warmup_steps = 4: the training has 3"),
        ({"evaluation": VLLM | {"temperature": 2.1}}, "with backend vllm it must be 0, or from"),
    ):
        assert message in fault(MINIMAL | sections)


def test_values_that_just_fit_together_are_taken():
    for temperature in (0, 0.01, 2):
        complete(MINIMAL | {"evaluation": VLLM | {"temperature": temperature}})
    complete(MINIMAL | {"evaluation": {"temperature": 2.1}})
    complete(MINIMAL | {"mixing": {"warmup_steps": 3, "max_steps": 3}})
    complete(MINIMAL | {"mixing": {"warmup_steps": 4}})  # the rows will tell


def test_a_lambda_has_one_token():
    spellings = {"1": [1, 1.0, "1", "1."], "0": [0, -0.0, "0.0", ".0"], "0.0000001": [1e-7]}
    for token, values in spellings.items():
        for value in values:
            assert complete(with_value("merge.lambdas", [value])).merge.lambdas == [token]


@given(st.floats(0, 1))
def test_a_lambda_token_is_the_same_number_in_one_spelling(value):
    token = keys.lambda_token(value)
    assert float(token) == value
    assert keys.lambda_token(token) == token
    assert keys.learns(token) is (value != 1)
    assert check_lambda(token, "--lam") == value


def test_a_merged_key_is_not_set_twice(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("common: &common {a: 1, b: 3}\nmoe_sft: {<<: *common, a: 2}\n")
    assert read_config(file)["moe_sft"] == {"a": 2, "b": 3}


def test_a_fault_is_told_with_its_place(tmp_path):
    for text, message in (
        ("a:\n  b: 1\n  c: 3\n  b: 2\n", "line 4, column 3: the key b is set twice, first in line"),
        ('{\n "seed": 1,\n "seed": 2\n}', "line 3, column 2: the key seed is set twice"),
        ("a: !!python/name:os.system\n", "line 1, column 4, is not valid YAML: could not determ"),
        ("seed: 1\n---\nseed: 2\n", "is not valid YAML: "),
        (f"seed: 1\nthreads: {'1' * 5_001}\n", "line 2, column 10, is not valid YAML: the int c"),
        ("seed: 2024-99-99\n", "line 1, column 7, is not valid YAML: the timestamp cannot be r"),
        ("moe: &a\n  rank: [*a]\n", "line 1, column 6, is not valid YAML: the anchor holds itself"),
        ("[" * 2_000, "is not valid YAML: it is nested too deeply"),
        ("- seed\n", "holds no configuration: it must be a mapping of keys"),
        ("", "holds no configuration"),
    ):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            read_config(file)
        assert str(caught.value).startswith(str(file))
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_no_file_is_told(tmp_path, name):
    with pytest.raises(UserError, match="there is no file"):
        read_config(tmp_path / name)


def test_of_changed_variants_only_what_differs_is_told():
    before = {"old": {}, "same": {"seed": 7}, "sft_soft": {"sft": {"learning_rate": 1e-3}}}
    after = {"new": {}, "same": {"seed": 7}, "sft_soft": {"sft": {"learning_rate": 2e-3}}}
    old = complete(MINIMAL | {"variants": before})
    new = complete(MINIMAL | {"variants": after, "seed": 8})
    assert [*changes(old, new)] == [
        "variants.old: left out",
        "variants.sft_soft.sft.learning_rate: 0.001 -> 0.002",
        "variants.new: added",
        "seed: 42 -> 8",
    ]
