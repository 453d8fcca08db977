"""The text of a config file: what is wrong with it, with file, line and column."""

import pytest

from xft.common.errors import UserError
from xft.config.text import read_config


def test_a_merged_key_is_not_set_twice(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("common: &common {a: 1, b: 3}\nmoe_sft: {<<: *common, a: 2}\n")
    assert read_config(file)["moe_sft"] == {"a": 2, "b": 3}


def test_a_fault_is_told_with_its_place(tmp_path):
    for text, message in (
        ("a:\n  b: 1\n  c: 3\n  b: 2\n", "line 4, column 3: the key b is set twice, first in line"),
        ('{\n "seed": 1,\n "seed": 2\n}', "line 3, column 2: the key seed is set twice"),
        ("seed: 1\n\tbase: a\n", "line 2, column 1, is not valid YAML: found character '\\t'"),
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
