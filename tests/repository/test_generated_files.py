"""Files that are written from others, the pins, and the configurations that come along."""

import json
import re

import jsonschema
import pytest
import yaml

from tools import write_caching_table, write_config_docs, write_envs
from xft.config.runs import find_runs
from xft.config.sections import TRAININGS, XftConfig
from xft.config.training import TrainingConfig
from xft.config.validation import complete, is_section

ROOT = write_envs.ROOT
# The packages that the workflow is made of.
STACK = {"snakemake", "torch", "transformers", "accelerate", "deepspeed", "safetensors"}
STACK |= {"evalplus", "pandas"}


def load(path) -> dict:
    return yaml.safe_load(path.read_text())


def pip_packages(name: str) -> list[str]:
    (found,) = [d for d in load(ROOT / "envs" / f"{name}.yaml")["dependencies"] if "pip" in d][1:]
    return found["pip"]


def merged(below: dict, above: dict) -> dict:
    """What Snakemake makes of two config files: sections are merged, all else is replaced."""
    both = {key: (below[key], above[key]) for key in below.keys() & above.keys()}
    sections = {key: merged(*pair) for key, pair in both.items() if isinstance(pair[1], dict)}
    return below | above | sections


def test_the_configurations_documentation_is_up_to_date():
    assert write_config_docs.DOCUMENT.read_text() == write_config_docs.document()
    assert write_config_docs.SCHEMA.read_text() == write_config_docs.schema()
    assert write_caching_table.DOCUMENT.read_text() == write_caching_table.document()


def test_the_json_schema_takes_what_the_classes_take():
    """By another validator than pydantic's own."""
    schema = json.loads(write_config_docs.SCHEMA.read_text())
    jsonschema.validate(load(ROOT / "config.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError, match="num_expert"):
        jsonschema.validate(load(ROOT / "config.yaml") | {"moe": {"num_expert": 3}}, schema)


def test_every_key_is_documented():
    text = write_config_docs.document()
    for name, field in XftConfig.model_fields.items():
        if not is_section(field.annotation):
            assert f"\n- `{name}`: " in text
            continue
        _, found, part = text.partition(f"\n## `{name}`: ")
        assert found
        own = part.partition("\n## ")[0]
        shared = TrainingConfig.model_fields if name in TRAININGS else {}
        for key in field.annotation.model_fields:
            assert f"\n- `{key}`: " in (text if key in shared else own), key


@pytest.mark.parametrize("name", write_envs.ENVIRONMENTS)
def test_environments_are_up_to_date(name):
    text = (ROOT / "envs" / f"{name}.yaml").read_text()
    assert text == write_envs.environment(write_envs.ENVIRONMENTS[name])


def test_there_are_no_other_environments_and_every_rule_has_one():
    files = {path.stem for path in (ROOT / "envs").iterdir()}
    used = set()
    for path in (ROOT / "rules").glob("*.smk"):
        used |= set(re.findall(r'"\.\./envs/(\w+)\.yaml"', path.read_text()))
    assert files == used == set(write_envs.ENVIRONMENTS)


@pytest.mark.parametrize("file", write_envs.PINS)
def test_every_package_but_torch_is_pinned_exactly(file):
    lines = [line.split(";")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    packages = [line for line in lines if line and not line.startswith(("#", "-r "))]
    exact = r"[\w.-]+==\d+(\.\d+)+(\.post\d+)?"
    loose = [line for line in packages if not re.fullmatch(exact, line)]
    assert loose == (["torch>=2.9,<2.14"] if file == "requirements.txt" else [])
    names = [re.split("[=<>]", line)[0] for line in packages]
    assert len(names) == len(set(names))
    assert file != "requirements.txt" or set(names) >= STACK


@pytest.mark.parametrize("name", write_envs.ENVIRONMENTS)
def test_environments_have_the_pins_of_the_requirements(name):
    requirements = "\n".join((ROOT / file).read_text() for file in write_envs.PINS)
    assert set(pip_packages(name)) <= set(requirements.splitlines())


def test_a_package_has_one_version_in_all_requirements():
    lines = {line for f in write_envs.PINS for line in (ROOT / f).read_text().splitlines()}
    names = [re.split("[=<>]", line)[0] for line in lines if line and line[0] not in "#-"]
    assert len(names) == len(set(names))


def test_the_default_configuration_is_valid_and_runs_on_what_comes_along():
    config = complete(load(ROOT / "config.yaml"))
    assert (ROOT / config.base.model / "config.json").is_file()
    for file in (config.data.train, *config.evaluation.datasets):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize(
    "path",
    [ROOT / "config" / "config.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))],
    ids=lambda path: path.stem,
)
def test_configurations_are_valid(path):
    under = {} if "base" in load(path) else load(ROOT / "recipes" / "embedded.yaml")
    assert find_runs(merged(under, load(path)), str(path))
