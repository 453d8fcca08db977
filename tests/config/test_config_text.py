"""The text of a config file: what is wrong with it, with file, line and column."""

import json

import pytest

from xft.common.errors import UserError
from xft.config.text import read_config

MERGED = """\
common: &common {num_train_epochs: 1, max_steps: 3}
moe_sft:
  <<: *common
  num_train_epochs: 2
mixing:
  <<: *common
"""


def test_a_config_is_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MERGED)
    config = read_config(file)
    assert config["moe_sft"] == {"num_train_epochs": 2, "max_steps": 3}
    assert config["mixing"] == {"num_train_epochs": 1, "max_steps": 3}


def test_json_is_read_whatever_its_spaces(tmp_path):
    config = {"seed": 1, "merge": {"lambdas": [0.5]}, "results_dir": "a\tb"}
    for indent in (None, 2, "\t"):
        file = tmp_path / "mine.json"
        file.write_text(json.dumps(config, indent=indent))
        assert read_config(file) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nbase: {model: a}\nseed: 2\n", "line 3, column 1: the key seed is set twice"),
        ("seed: 1\nseed: 1\n", "the key seed is set twice, first in line 1"),
        (
            "training:\n  num_train_epochs: 1\n  max_steps: 3\n  num_train_epochs: 2\n",
            "line 4, column 3: the key num_train_epochs is set twice, first in line 2",
        ),
        ("merge: {keep: all, keep: best}", "line 1, column 20: the key keep is set twice"),
        ("a:\n- {b: 1}\n- {b: 1, b: 2}\n", "line 3, column 10: the key b is set twice"),
        ('{\n\t"seed": 1,\n\t"seed": 2\n}', "line 3, column 2: the key seed is set twice"),
        ("seed: 1\n\tbase: a\n", "line 2, column 1, is not valid YAML: found character '\\t'"),
        ("a: 1\n  b: 2\n", "line 2, column 4, is not valid YAML: mapping values are not allowed"),
        ("a: [1, 2\nb: 3\n", "line 2, column 2, is not valid YAML: expected ',' or ']'"),
        ("a: *b\n", "line 1, column 4, is not valid YAML: found undefined alias"),
        (
            "a: !!python/name:os.system\n",
            "line 1, column 4, is not valid YAML: could not determ",
        ),
        ("[a]: 1\n{b: 2}: 2\n", "is not valid YAML: "),
        ("seed: 1\n---\nseed: 2\n", "is not valid YAML: "),
        ("a: \x00\n", "is not valid YAML: "),
        ("[" * 10_000, "is not valid YAML: it is nested too deeply"),
        ("- seed\n", "holds no configuration: it must be a mapping of keys"),
        ("", "holds no configuration"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_a_file_that_is_no_text_is_told(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"seed: \xff\n")
    with pytest.raises(UserError, match="is not valid YAML: 'utf-8' codec"):
        read_config(file)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_no_file_is_told(tmp_path, name):
    with pytest.raises(UserError, match="there is no file"):
        read_config(tmp_path / name)
