"""Files that are written from others, and the pins."""

import json
import re
import tomllib
from importlib.metadata import distributions

import jsonschema
import pytest
import yaml
from interpreter import python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import write_config_docs, write_envs

ROOT = write_envs.ROOT


def load(path) -> dict:
    return yaml.safe_load(path.read_text())


def test_the_lists_of_keys_and_commands_are_up_to_date():
    assert write_config_docs.DOCUMENT.read_text() == write_config_docs.document()
    assert write_config_docs.REFERENCE.read_text() == write_config_docs.commands()
    assert write_config_docs.SCHEMA.read_text() == write_config_docs.schema()


def test_the_json_schema_takes_what_the_classes_take():
    """By another validator than pydantic's own."""
    schema = json.loads(write_config_docs.SCHEMA.read_text())
    jsonschema.validate(load(ROOT / "config.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError, match="num_expert"):
        jsonschema.validate(load(ROOT / "config.yaml") | {"moe": {"num_expert": 3}}, schema)


def test_each_rule_has_a_summary_and_an_environment_and_all_are_up_to_date():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    told = re.findall(r'^rule \w+:\n    """[A-Z].*\."""$', rules, re.MULTILINE)
    assert len(told) == rules.count("\nrule ")
    assert {path.stem: path.read_text() for path in (ROOT / "envs").iterdir()} == {
        name: write_envs.environment(write_envs.ENVIRONMENTS[name])
        for name in re.findall(r'"\.\./envs/(\w+)\.yaml"', rules)
    }


def test_each_package_but_torch_has_one_exact_version():
    exact = r"[\w.-]+==\d+(\.\d+)+(\.post\d+)?"
    for version in ("3.11", "3.12", "3.13"):
        needed = [Requirement(line) for line in write_envs.requirements()]
        packages = {
            f"{each.name}{each.specifier}"
            for each in needed
            if each.marker is None or each.marker.evaluate({"python_version": version})
        }
        loose = {each for each in packages if not re.fullmatch(exact, each)}
        assert loose == {"torch<2.16,>=2.9"}
        names = [re.split("[=<>]", each)[0] for each in packages]
        assert len(names) == len(set(names))


def exact(lines) -> set[tuple[str, str]]:
    """Name and version of each requirement."""
    found = map(Requirement, lines)
    return {(canonicalize_name(each.name), str(each.specifier)) for each in found}


def test_the_lock_has_each_pin_with_hashes_and_leaves_torch_to_the_machine():
    text = write_envs.LOCK.read_text()
    assert "://" not in text
    hashes = r"(?: \\\n    --hash=sha256:[0-9a-f]{64})+$"
    locked = exact(re.findall(rf"^(\w.*){hashes}", text, re.MULTILINE))
    assert len(locked) == len(re.findall(r"^\w", text, re.MULTILINE)) > 200
    wanted = exact(line for line in write_envs.requirements() if not line.startswith("vllm"))
    assert {name for name, _ in wanted - locked} == {"torch"}
    assert not {"torch", "setuptools", "sympy", "triton"} & {name for name, _ in locked}


@pytest.mark.ci
def test_what_is_imported_of_evalplus_needs_no_client_of_a_service():
    """uv leaves these clients out."""
    sources = "".join(file.read_text() for file in (ROOT / "xft").rglob("*.py"))
    modules = sorted(set(re.findall(r"(?:from|import) (evalplus[\w.]*)", sources)))
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    clients = {name.replace("-generative", ".generative") for name in uv["exclude-dependencies"]}
    python("-c", f"import sys, {', '.join(modules)}; assert not {clients} & sys.modules.keys()")


def test_an_environment_has_what_its_packages_need():
    """By the metadata of those that are installed here, but for what torch needs."""
    needs = {canonicalize_name(each.name): each.requires or [] for each in distributions()}
    for name in write_envs.ENVIRONMENTS.keys() - {"vllm"}:
        held = dict(exact(load(ROOT / "envs" / f"{name}.yaml")["dependencies"][-1]["pip"]))
        lines = [line for package in held.keys() - {"torch"} for line in needs.get(package, [])]
        marks = {line: Requirement(line).marker for line in lines}
        here = [line for line in lines if not marks[line] or marks[line].evaluate()]
        assert dict(exact(here)).keys() <= held.keys() | {"setuptools", "torch"}
