"""Files that are written from others, and the pins."""

import json
import re

import jsonschema
import pytest
import yaml

from tools import write_config_docs, write_envs

ROOT = write_envs.ROOT


def load(path) -> dict:
    return yaml.safe_load(path.read_text())


def test_the_configurations_documentation_is_up_to_date():
    assert write_config_docs.DOCUMENT.read_text() == write_config_docs.document()
    assert write_config_docs.SCHEMA.read_text() == write_config_docs.schema()


def test_the_json_schema_takes_what_the_classes_take():
    """By another validator than pydantic's own."""
    schema = json.loads(write_config_docs.SCHEMA.read_text())
    jsonschema.validate(load(ROOT / "config.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError, match="num_expert"):
        jsonschema.validate(load(ROOT / "config.yaml") | {"moe": {"num_expert": 3}}, schema)


def test_each_rule_has_an_environment_and_all_are_up_to_date():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert {path.stem: path.read_text() for path in (ROOT / "envs").iterdir()} == {
        name: write_envs.environment(write_envs.ENVIRONMENTS[name])
        for name in re.findall(r'"\.\./envs/(\w+)\.yaml"', rules)
    }


def test_each_package_but_torch_has_one_exact_version():
    packages = sorted({line.split(";")[0].strip() for line in write_envs.requirements()})
    exact = r"[\w.-]+==\d+(\.\d+)+(\.post\d+)?"
    loose = [line for line in packages if not re.fullmatch(exact, line)]
    assert loose == ["torch>=2.9,<2.14"]
    names = [re.split("[=<>]", line)[0] for line in packages]
    assert len(names) == len(set(names))
