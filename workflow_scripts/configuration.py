"""The configuration: one schema for the config, its documentation and the steps' flags."""

import copy
import difflib
import json
import math
from contextlib import suppress
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from workflow_scripts.errors import UserError

SCHEMA_FILE = Path(__file__).with_name("config.schema.json")
# Keys of section `mixing` that say which logits there are; the others are options of training.
MIXING_SHAPE = ["granularity", "learn_lambda"]


@cache
def schema() -> dict:
    """The JSON schema of the whole configuration."""
    return json.loads(SCHEMA_FILE.read_text())


def properties(section: str | None = None) -> dict[str, dict]:
    """The keys of a section (None: of the top level) with their schemas, references resolved."""
    owner = schema()["properties"][section] if section else schema()
    return {key: _resolve(value) for key, value in owner["properties"].items()}


def required(section: str | None = None) -> list[str]:
    """The keys of a section (None: of the top level) that have no default."""
    owner = schema()["properties"][section] if section else schema()
    return owner.get("required", [])


def _resolve(subschema: dict) -> dict:
    if "$ref" not in subschema:
        return subschema
    definition = schema()["$defs"][subschema["$ref"].removeprefix("#/$defs/")]
    return definition | {key: value for key, value in subschema.items() if key != "$ref"}


def complete(config: dict, where: str = "config") -> dict:
    """A checked copy of `config` with all defaults filled in and lambdas as canonical tokens.

    Raises UserError with every fault: the key, its value, and what is allowed.
    """
    config = _with_types(config)
    _raise_faults(schema(), config, where)
    result = _with_defaults(config)
    check_moe(result["moe"], f"{where}: moe")
    if not result["moe"]["shared_expert"] and "dense" in result["evaluation"]["models"]:
        raise UserError(
            f"{where}: evaluation.models names dense, but without moe.shared_expert there is no "
            "merge. Leave out dense"
        )
    if result["moe"]["upcycled_layers"] is not None:
        result["moe"]["upcycled_layers"].sort()
    result["merge"]["lambdas"] = _lambda_tokens(result["merge"]["lambdas"], where)
    if result["mixing"]["learn_lambda"]:
        for lam in result["merge"]["lambdas"]:
            check_learnable(float(lam), f"{where}: merge.lambdas")
    _check_labels(result["evaluation"]["datasets"], where)
    return result


def _check_labels(datasets: list[str], where: str) -> None:
    from workflow_scripts.evaluation.problems import label

    labels = [label(dataset) for dataset in datasets]
    for name in labels:
        if labels.count(name) > 1:
            raise UserError(
                f"{where}: evaluation.datasets: two data sets are called {name} in the results. "
                "Rename a file"
            )


def check_files(config: dict) -> None:
    """Raise UserError where a file or folder that a completed config names is not there.

    Snakemake itself does not notice a missing input while the outputs made from it exist.
    """
    from workflow_scripts.checkpoints.source import check_dataset_source, check_source
    from workflow_scripts.evaluation.problems import NAMED_SETS

    check_source(config["base"]["model"], config["base"]["revision"])
    data = config["data"]
    if data["revision"]:
        check_dataset_source(data["train"], data["revision"])
    else:
        _check_file("data.train", data["train"])
    for dataset in config["evaluation"]["datasets"]:
        if dataset not in NAMED_SETS:
            _check_file("evaluation.datasets", dataset)


def _check_file(key: str, path: str) -> None:
    if not Path(path).is_file():
        raise UserError(f"config: {key}: there is no file {path}")


def check_moe(settings: dict, where: str) -> None:
    """Raise UserError where the numbers of experts do not fit each other."""
    total, chosen = settings["num_experts"], settings["num_experts_per_tok"]
    if chosen > total:
        raise UserError(
            f"{where}: num_experts_per_tok = {chosen}: must be at most num_experts = {total}"
        )
    if settings["shared_expert"] and chosen < 2:
        raise UserError(
            f"{where}: num_experts_per_tok = {chosen}: must be at least 2 with a shared expert, "
            "which counts as one"
        )


def check_section(section: str | None, values: dict, where: str) -> None:
    """Raise UserError unless each of `values` is allowed for its key of `section`."""
    keys = {key: value for key, value in properties(section).items() if key in values}
    _raise_faults({"type": "object", "properties": keys}, values, where)


def lambda_token(value: float | str) -> str:
    """The canonical decimal form of a lambda: 0.750 and "0.75" are 0.75, 1.0 is 1."""
    token = f"{Decimal(str(value)).normalize():f}"
    return "0" if token == "-0" else token


def check_lambda(value: float | str, where: str) -> float:
    """A lambda as a number. Raises UserError unless it is a decimal number from 0 to 1."""
    _raise_faults(properties("merge")["lambdas"]["items"], value, f"{where} = {value}")
    return float(value)


def check_learnable(shared_expert_weight: float, where: str) -> None:
    """Raise UserError where a lambda to be learned starts at 0 or 1, whose logits are infinite."""
    if not 0 < shared_expert_weight < 1:
        raise UserError(
            f"{where} = {shared_expert_weight:g}: with learn_lambda it must be between 0 and 1, "
            "these excluded"
        )


def _lambda_tokens(values: list, where: str) -> list[str]:
    tokens = [lambda_token(value) for value in values]
    repeated = sorted({token for token in tokens if tokens.count(token) > 1})
    if repeated:
        raise UserError(f"{where}: merge.lambdas names {', '.join(repeated)} more than once")
    return tokens


def _with_types(config: dict) -> dict:
    """A copy in which text stands for what it spells, where the schema wants no text.

    YAML 1.1 takes 5e-5 for text, and `snakemake --config` takes every nested value for it. 4 is
    4.0 where a number is wanted: the same value in another spelling must not run anything again.
    """
    result = copy.deepcopy(config)
    for section in result.keys() & properties().keys():
        if isinstance(result[section], dict):
            known = properties(section)
            for key, value in result[section].items():
                if key in known:
                    result[section][key] = _value_typed(value, known[key])
    return result


def _value_typed(value: Any, subschema: dict) -> Any:
    if isinstance(value, list) and "items" in subschema:
        return [_typed(item, _types(subschema["items"])) for item in value]
    return _typed(value, _types(subschema))


def _typed(value: Any, types: list[str]) -> Any:
    if "number" in types and type(value) is int:
        return float(value)
    if not isinstance(value, str):
        return value
    if "null" in types and value == "null":
        return None
    if "string" in types:
        return value
    if "boolean" in types and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for name, parse in (("integer", int), ("number", float)):
        if name in types:
            with suppress(ValueError):
                return parse(value)
    return value


def _types(subschema: dict) -> list[str]:
    stated = subschema["type"]
    return [stated] if isinstance(stated, str) else stated


def _with_defaults(config: dict) -> dict:
    """A copy with every key that has a default, in the schema's order: the user's means nothing."""
    result = {}
    for name, subschema in properties().items():
        value = config.get(name, subschema.get("default"))
        if subschema["type"] == "object":
            value = {
                key: value.get(key, _typed(known.get("default"), _types(known)))
                for key, known in properties(name).items()
            }
        result[name] = value
    return copy.deepcopy(result)


def _raise_faults(subschema: dict, instance: Any, where: str) -> None:
    errors = sorted(_validator()(subschema).iter_errors(instance), key=lambda e: e.json_path)
    if errors:
        raise UserError("\n".join(f"{where}: {_explain(error)}" for error in errors))


@cache
def _validator():
    """JSON schema's, but 8.0 is no integer, and neither infinity nor NaN is a number."""
    from jsonschema import Draft202012Validator, validators

    standard = Draft202012Validator.TYPE_CHECKER
    strict = {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: standard.is_type(value, "number") and abs(value) < math.inf,
    }
    return validators.extend(Draft202012Validator, type_checker=standard.redefine_many(strict))


def _explain(error) -> str:
    key = error.json_path.removeprefix("$").removeprefix(".")
    prefix = f"{key} = {json.dumps(error.instance, default=str)}: " if key else ""
    match error.validator:
        case "additionalProperties":
            return _explain_unknown(key, error)
        case "required":
            missing = error.message.split("'")[1]
            return f"{key}.{missing} is missing" if key else f"{missing} is missing"
        case "type":
            return f"{prefix}must be of type {' or '.join(_types(error.schema))}"
        case "enum":
            return f"{prefix}must be one of {', '.join(map(str, error.validator_value))}"
        case "minimum":
            return f"{prefix}must be at least {error.validator_value}"
        case "maximum":
            return f"{prefix}must be at most {error.validator_value}"
        case "exclusiveMinimum":
            return f"{prefix}must be greater than {error.validator_value}"
        case _:
            return prefix + error.schema.get("errorMessage", error.message)


def _explain_unknown(section: str, error) -> str:
    known = sorted(error.schema["properties"])
    unknown = sorted(str(key) for key in error.instance if key not in known)
    parts = []
    for key in unknown:
        name = f"{section}.{key}" if section else key
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
        parts.append(f"{name} is not a known key: {hint}")
    return "; ".join(parts)
