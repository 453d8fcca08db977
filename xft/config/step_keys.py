"""The keys of the configuration that each step's result depends on."""

from collections.abc import Iterator
from functools import cache

from xft.config.section import Section, keys
from xft.config.sections import (
    BaseConfig,
    EvalConfig,
    HealConfig,
    MergeMethod,
    MixingShape,
    MixingStart,
    MoeConfig,
    MoeSftConfig,
    RowsSource,
    RunConfig,
    ScoringConfig,
    SftConfig,
    TokensConfig,
    XftConfig,
)
from xft.config.training import MixingTraining

# Flags that change no result, or that name a file, whose content decides.
UNRECORDED = ("gpus", "report_to", "save_minutes", "text")
COMPUTED = ("threads", "gpus")
TRAINED = ("seed", *COMPUTED, "report_to")
# The keys that are flags of a step, by step and section (None: the top level).
READS: dict[str, dict[str | None, tuple[str, ...]]] = {
    "base": {"base": keys(BaseConfig)},
    "moe": {None: ("seed",), "moe": keys(MoeConfig)},
    "fetch_data": {"data": keys(RowsSource)},
    "fetch_problems": {},
    "tokens": {"data": keys(TokensConfig)},
    "moe_sft": {None: TRAINED, "moe_sft": keys(MoeSftConfig)},
    "sft": {None: TRAINED, "sft": keys(SftConfig)},
    "soup": {},
    "ffn": {},
    "contamination": {},
    "diversity": {},
    "weighted_init": {
        None: COMPUTED,
        "mixing": (*keys(MixingShape), *keys(MixingStart)),
    },
    "weighted_trained": {None: TRAINED, "mixing": keys(MixingTraining)},
    "dense": {"merge": keys(MergeMethod)},
    "best": {},
    "heal": {None: TRAINED, "heal": keys(HealConfig)},
    "ground_truth": {"evaluation": keys(ScoringConfig)},
    "eval": {None: ("seed", *COMPUTED), "evaluation": keys(EvalConfig)},
    "validation_loss": {None: COMPUTED},
    "lm_eval": {None: COMPUTED, "evaluation": ("batch_size", "limit")},
    "summary": {},
    "report": {},
}
# Flags of a step that are derived from keys with another name or form, and these keys.
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "weighted_init": {"lam": ("merge.lambdas",)},
    "dense": {"expert": ()},
    "eval": {"prompt": ("evaluation.base_prompt", "data.template")},
    "lm_eval": {"tasks": ("evaluation.lm_eval",)},
    "summary": {"runs": (), "chosen_by": ()},
}
# Keys that decide which files or results a step reads.
NAMING: dict[str, tuple[str, ...]] = {
    "tokens": (
        *("data.train", "data.revision", "data.split"),
        "data.decontaminate_against",
    ),
    "contamination": ("evaluation.datasets",),
    "ground_truth": ("evaluation.datasets",),
    "weighted_trained": ("mixing.text",),
    "eval": ("evaluation.datasets",),
    "summary": ("evaluation.models",),
}


def sections_of_step(step: str) -> Iterator[tuple[type[Section], tuple[str, ...]]]:
    """The classes of the configuration whose keys are flags of a step, each with these keys."""
    for section, names in READS.get(step, {}).items():
        yield XftConfig.model_fields[section].annotation if section else RunConfig, names


def keys_of_step(step: str) -> dict[str, str]:
    """The keys that a step's result depends on, such as "moe.num_experts", by flag."""
    read = {name: f"{section}.{name}" if section else name for section, name in _recorded(step)}
    return read | {name: name for name in FLAGS.get(step, {})}


def _recorded(step: str) -> list[tuple[str | None, str]]:
    """The section and the name of each key that a step's result depends on."""
    return [
        (section, name)
        for section, names in READS[step].items()
        for name in names
        if name not in UNRECORDED
    ]


def default_of(key: str) -> object:
    """The default of a key such as "moe.num_experts"; an object that equals nothing without one."""
    section, _, name = key.rpartition(".")
    owner = XftConfig.model_fields[section].annotation if section else XftConfig
    field = owner.model_fields.get(name)
    return object() if field is None or field.is_required() else field.get_default()


def steps_of_key(key: str) -> list[str]:
    """The steps that read a key such as "moe.num_experts" themselves."""
    return [step for step in READS if key in keys_behind(step)]


@cache
def keys_behind(step: str) -> frozenset[str]:
    """The keys that decide, directly or through a flag or a file, about the result of a step."""
    flags = [key for keys in FLAGS.get(step, {}).values() for key in keys]
    return frozenset([*keys_of_step(step).values(), *flags, *NAMING.get(step, ())])


def options_of_step(step: str, config: XftConfig) -> dict[str, object]:
    """The values that the step's result depends on, by flag."""
    return {
        name: getattr(getattr(config, section) if section else config, name)
        for section, name in _recorded(step)
    }
