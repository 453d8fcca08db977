"""The config of a run: checked as a whole, completed with the defaults, its files found."""

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import UserError, did_you_mean, naming
from workflow_scripts.config.launch import check_devices, check_launch
from workflow_scripts.configuration import (
    check_backend,
    check_learnable,
    check_moe,
    check_samples,
    check_validation,
    check_warmup,
    lambda_token,
    properties,
    raise_faults,
    schema,
    types_of,
)
from workflow_scripts.data.templates import PROMPT_NAMES, read_template
from workflow_scripts.evaluation.problems import label, load_problems
from workflow_scripts.hub.named_sets import NAMED_SETS
from workflow_scripts.hub.source import HUB_ID, check_source, dataset_source
from workflow_scripts.workflow.base_fit import check_base

TRAININGS = ("training", "sft", "mixing")  # sections of the config, one for each training
MERGED = ("uniform", "dense")  # models that there are for each lambda


# Keys of files and folders, where `~` stands for the home folder.
PATHS = {
    None: ["results_dir"],
    "base": ["model"],
    "data": ["train", "template"],
    "evaluation": ["base_prompt", "datasets", "general"],
}


def complete(config: dict, where: str = "config") -> dict:
    """A checked copy of `config` with all defaults filled in and lambdas as canonical tokens.

    Raises UserError with every fault: the key, its value, and what is allowed.
    """
    config = _with_types(config)
    raise_faults(schema(), config, where)
    result = _with_home(_with_defaults(_with_inherited(config)))
    check_moe(result["moe"], f"{where}: moe")
    for section in TRAININGS:
        check_validation(result[section], result["data"]["validation_rows"], f"{where}: {section}")
    if not result["moe"]["shared_expert"]:
        _check_unmerged(result["evaluation"]["models"], where)
    if result["moe"]["upcycled_layers"] is not None:
        result["moe"]["upcycled_layers"].sort()
    if result["merge"]["keep"] == "best" and "dense" not in result["evaluation"]["models"]:
        raise UserError(
            f"{where}: merge.keep = best: evaluation.models must name dense, to tell which is best"
        )
    result["merge"]["lambdas"] = _lambda_tokens(result["merge"]["lambdas"], where)
    if result["mixing"]["learn_lambda"]:
        for lam in result["merge"]["lambdas"]:
            check_learnable(float(lam), f"{where}: merge.lambdas")
    _check_labels(result["evaluation"]["datasets"], where)
    check_samples(result["evaluation"], f"{where}: evaluation")
    check_backend(result["evaluation"], f"{where}: evaluation")
    _check_trainings(result, where)
    return result


def _check_unmerged(models: list[str], where: str) -> None:
    if merged := [model for model in models if model in MERGED]:
        raise UserError(
            f"{where}: evaluation.models names {' and '.join(merged)}, but without "
            f"moe.shared_expert there is no merge. Leave out {' and '.join(merged)}"
        )


def _check_trainings(config: dict, where: str) -> None:
    for section in TRAININGS:
        check_warmup(config[section], config[section]["max_steps"], f"{where}: {section}")
        check_launch(config[section], f"{where}: {section}")
        gpus = config["gpus"] * config[section]["processes"]
        check_devices(config[section], gpus, f"{where}: {section}, gpus = {config['gpus']}")


def _check_labels(datasets: list[str], where: str) -> None:
    labels = [label(dataset) for dataset in datasets]
    for name in labels:
        if labels.count(name) > 1:
            raise UserError(
                f"{where}: evaluation.datasets: two data sets are called {name} in the results. "
                "Rename a file"
            )


def _check_paths(config: dict) -> None:
    """Raise UserError where a path holds what Snakemake or a step takes for something else."""
    for section, keys in PATHS.items():
        for key in keys:
            value = (config[section] if section else config)[key]
            for path in value if isinstance(value, list) else [value]:
                fault = _fault_of_path(path)
                if fault:
                    name = f"{section}.{key}" if section else key
                    raise UserError(
                        f"config: {name} = {path!r}: {fault}. Rename it, or name a link to it"
                    )


def _fault_of_path(path: str) -> str | None:
    if set(path) & set("{}"):
        return "a path must not hold braces, which Snakemake takes for wildcards"
    if path.startswith("-"):
        return "a path must not begin with -, as a flag does"
    if not path.isprintable():
        return "a path must not hold line breaks or other characters that are not shown"
    return None


def check_files(config: dict) -> None:
    """Raise UserError where a file or folder that a completed config names cannot be used.

    Snakemake itself does not notice a missing input while the outputs made from it exist.
    """
    data, evaluation = config["data"], config["evaluation"]
    _check_paths(config)
    _check_results(config["results_dir"])
    with naming("config"):
        check_source(config["base"]["model"], config["base"]["revision"])
        if data["revision"]:
            dataset_source(data["train"], data["revision"])
    if not data["revision"]:
        hint = ". If it is on the hub, set data.revision to one of its commit hashes"
        _check_file("data.train", data["train"], hint if HUB_ID.match(data["train"]) else "")
    with naming("config: data.template"):
        read_template(data["template"])
    with naming("config: evaluation.base_prompt"):
        read_template(evaluation["base_prompt"], PROMPT_NAMES)
    with naming("config"):
        check_base(
            config["base"]["model"],
            config["base"]["revision"],
            max_length=data["max_length"],
            max_new_tokens=evaluation["max_new_tokens"],
            template=data["template"],
            base_prompt=evaluation["base_prompt"],
        )
    for dataset in evaluation["datasets"]:
        _check_problems(dataset)
    for task in evaluation["general"]:
        if task.endswith(".yaml"):
            _check_file("evaluation.general", task)


def _check_results(folder: str) -> None:
    for place in (Path(folder), *Path(folder).parents):
        if place.exists() and not place.is_dir():
            raise UserError(
                f"config: results_dir = {folder}: {place} is a file, not a folder. Name another"
            )


def _check_problems(dataset: str) -> None:
    """Raise UserError where a set of problems is wrong. The pinned releases are not."""
    named = NAMED_SETS.get(dataset)
    if named is None:
        _check_file("evaluation.datasets", dataset, did_you_mean(dataset, NAMED_SETS))
    elif named.wanted_sha256 == named.sha256:
        return
    with naming("config: evaluation.datasets"):
        load_problems(dataset)


def _check_file(key: str, path: str, hint: str = "") -> None:
    if not Path(path).is_file():
        raise UserError(f"config: {key}: there is no file {path}{hint}")


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
    result = _values_typed(config, properties())
    for name, subschema in properties().items():
        if subschema["type"] == "object" and isinstance(result.get(name), dict):
            result[name] = _values_typed(result[name], properties(name))
    return copy.deepcopy(result)


def _values_typed(values: dict, known: dict[str, dict]) -> dict:
    return {
        key: _value_typed(value, known[key]) if key in known else value
        for key, value in values.items()
    }


def _value_typed(value: Any, subschema: dict) -> Any:
    if isinstance(value, list) and "items" in subschema:
        return [_typed(item, types_of(subschema["items"])) for item in value]
    return _typed(value, types_of(subschema))


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


def _with_home(config: dict) -> dict:
    """The config with the home folder in place of a `~` at the start of a path."""
    for section, keys in PATHS.items():
        values = config[section] if section else config
        for key in keys:
            value = values[key]
            paths = value if isinstance(value, list) else [value]
            whole = [str(Path(p).expanduser()) if p.startswith("~") else p for p in paths]
            values[key] = whole if isinstance(value, list) else whole[0]
    return config


def _with_inherited(config: dict) -> dict:
    """A copy in which section `sft` has the keys of `training` that it does not give itself."""
    shared = properties("sft")
    given = {key: value for key, value in config.get("training", {}).items() if key in shared}
    return config | {"sft": given | config.get("sft", {})}


def _with_defaults(config: dict) -> dict:
    """A copy with every key that has a default, in the schema's order: the user's means nothing."""
    result = {}
    for name, subschema in properties().items():
        value = config.get(name, subschema.get("default"))
        if subschema["type"] == "object":
            value = {
                key: value.get(key, _typed(known.get("default"), types_of(known)))
                for key, known in properties(name).items()
            }
        result[name] = value
    return copy.deepcopy(result)
