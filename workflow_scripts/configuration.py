"""The configuration's schema: for the config, its documentation and the steps' flags."""

import difflib
import json
import math
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import UserError

SCHEMA_FILE = Path(__file__).with_name("config.schema.json")
# Keys of section `mixing` that say which logits there are; the others are options of training.
MIXING_SHAPE = ["granularity", "learn_lambda"]
# Keys of the sections of trainings that change nothing in a result.
TRAINING_UNRELATED = ["checkpoint_minutes"]
# Keys of section `data` on which tokens depend; the others say where rows and problems come from.
TOKENS_OPTIONS = [
    *("instruction_column", "response_column", "template", "max_length", "limit"),
    *("bad_rows", "deduplicate", "validation_rows"),
]
VLLM_TEMPERATURES = (0.01, 2.0)  # it raises a lower one to the lowest


@cache
def schema() -> dict:
    """The JSON schema of the whole configuration."""
    return json.loads(SCHEMA_FILE.read_text())


def properties(section: str | None = None) -> dict[str, dict]:
    """The keys of a section (None: of the top level) with their schemas, references resolved."""
    owner = schema()["properties"][section] if section else schema()
    return {key: _resolve(value) for key, value in owner["properties"].items()}


def defaults(section: str) -> dict:
    """The keys of a section that have a default, with it."""
    known = properties(section)
    return {key: known[key]["default"] for key in known if "default" in known[key]}


def required(section: str | None = None) -> list[str]:
    """The keys of a section (None: of the top level) that have no default."""
    owner = schema()["properties"][section] if section else schema()
    return owner.get("required", [])


def _resolve(subschema: dict) -> dict:
    if "$ref" not in subschema:
        return subschema
    definition = schema()["$defs"][subschema["$ref"].removeprefix("#/$defs/")]
    return definition | {key: value for key, value in subschema.items() if key != "$ref"}


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
    raise_faults({"type": "object", "properties": keys}, values, where)


def lambda_token(value: float | str) -> str:
    """The canonical decimal form of a lambda: 0.750 and "0.75" are 0.75, 1.0 is 1."""
    token = f"{Decimal(str(value)).normalize():f}"
    return "0" if token == "-0" else token


def check_lambda(value: float | str, where: str) -> float:
    """A lambda as a number. Raises UserError unless it is a decimal number from 0 to 1."""
    raise_faults(properties("merge")["lambdas"]["items"], value, f"{where} = {value}")
    return float(value)


def check_learnable(shared_expert_weight: float, where: str) -> None:
    """Raise UserError where a lambda to be learned starts at 0 or 1, whose logits are infinite."""
    if not 0 < shared_expert_weight < 1:
        raise UserError(
            f"{where} = {shared_expert_weight:g}: with learn_lambda it must be between 0 and 1, "
            "these excluded"
        )


def learns(shared_expert_weight: float | str) -> bool:
    """Whether step 6 can learn at a lambda: at 1 the routed experts have no weight."""
    return float(shared_expert_weight) < 1


def check_warmup(training: dict, steps: int | None, where: str) -> None:
    """Raise UserError where the warm-up is longer than the training. steps: None: not known yet.

    training: the config's section `training`, `sft` or `mixing`.
    """
    warmup = training["warmup_steps"]
    if steps is not None and warmup > steps:
        raise UserError(
            f"{where}: warmup_steps = {warmup}: the training has {steps} steps, and would not "
            f"reach its learning rate. Set warmup_steps to at most {steps}"
        )


def check_samples(evaluation: dict, where: str) -> None:
    """Raise UserError where several samples of a problem would all be the same."""
    if evaluation["samples"] > 1 and not evaluation["temperature"]:
        raise UserError(
            f"{where}: samples = {evaluation['samples']}: without a temperature all samples of a "
            "problem are the same. Set temperature, such as 0.8"
        )


def check_backend(evaluation: dict, where: str) -> None:
    """Raise UserError for a temperature that vLLM refuses, or takes for another."""
    lowest, highest = VLLM_TEMPERATURES
    temperature = evaluation["temperature"]
    is_taken = temperature == 0 or lowest <= temperature <= highest
    if evaluation["backend"] == "vllm" and not is_taken:
        raise UserError(
            f"{where}: temperature = {temperature:g}: with backend vllm it must be 0, or from "
            f"{lowest:g} to {highest:g}"
        )


def check_validation(training: dict, validation_rows: int, where: str) -> None:
    """Raise UserError where a training is to act on validation losses that there are not.

    training: the config's section `training` or `mixing`.
    """
    defaults = {"evaluate_every": None, "keep": "last", "early_stop": None}
    asked = [key for key, default in defaults.items() if training[key] != default]
    if asked and not validation_rows:
        raise UserError(
            f"{where}: {', '.join(asked)}: there are no validation rows. Set data.validation_rows"
        )
    if asked and training["evaluate_every"] is None:
        raise UserError(
            f"{where}: {', '.join(asked)}: without evaluate_every there is one validation, at the "
            "end, and none to compare it with"
        )


def types_of(subschema: dict) -> list[str]:
    """The names of the types that a key may have."""
    stated = subschema["type"]
    return [stated] if isinstance(stated, str) else stated


def raise_faults(subschema: dict, instance: Any, where: str) -> None:
    """Raise UserError with every fault of `instance`, if there is one."""
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
            return f"{_full_name(key, missing)} is missing"
        case "type":
            return f"{prefix}must be of type {' or '.join(types_of(error.schema))}{_example(error)}"
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


def _example(error) -> str:
    """What a section looks like, where one is wanted."""
    keys = list(error.schema.get("properties", ()))
    return f": keys, such as {{{keys[0]}: ...}}" if keys else ""


def _explain_unknown(section: str, error) -> str:
    known = sorted(error.schema["properties"])
    unknown = sorted(str(key) for key in error.instance if key not in known)
    return "; ".join(
        f"{_full_name(section, key)} is not a known key: {_hint(key, known)}" for key in unknown
    )


def _hint(key: str, known: list[str]) -> str:
    """What may be meant by a key that a section with these known keys does not have."""
    places = _places()
    section, _, name = key.partition(".")
    if section in places.get(name, ()):
        return f"write {section}: {{{name}: ...}}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    far = difflib.get_close_matches(key, places, n=1, cutoff=0.75)
    if far and far[0] not in known:
        *others, last = (_full_name(section, far[0]) for section in places[far[0]])
        meant = f"{', '.join(others)} or {last}" if others else last
        return f"did you mean {meant}{'' if '.' in meant else ', at the top level'}?"
    return f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"


@cache
def _places() -> dict[str, list[str]]:
    """Every key of the configuration with the sections that have it; "" is the top level."""
    places = {name: [""] for name in properties()}
    for section, subschema in properties().items():
        for name in subschema.get("properties", ()):
            places.setdefault(name, []).append(section)
    return places


def _full_name(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key
