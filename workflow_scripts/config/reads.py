"""Which step's result depends on which keys of the configuration."""

from workflow_scripts.config.section import Section, keys
from workflow_scripts.config.sections import (
    BaseConfig,
    EvalConfig,
    MixingShape,
    MoeConfig,
    MoeSftConfig,
    RowsSource,
    ScoringConfig,
    SftConfig,
    TokensConfig,
    XftConfig,
)
from workflow_scripts.config.training import MixingTraining

UNRELATED = ("save_minutes",)  # keys of trainings that change no result


def _training(section: type[Section]) -> tuple[str, ...]:
    return tuple(key for key in keys(section) if key not in UNRELATED)


# By step and section (None: the top level).
READS: dict[str, dict[str | None, tuple[str, ...]]] = {
    "base": {"base": keys(BaseConfig)},
    "moe": {None: ("seed",), "moe": keys(MoeConfig)},
    "fetch_data": {"data": keys(RowsSource)},
    "fetch_problems": {},
    "tokens": {"data": keys(TokensConfig)},
    "moe_sft": {None: ("seed", "threads"), "moe_sft": _training(MoeSftConfig)},
    "sft": {None: ("seed", "threads"), "sft": _training(SftConfig)},
    "ffn": {},
    "weighted_init": {"mixing": keys(MixingShape)},
    "weighted_trained": {None: ("seed", "threads"), "mixing": _training(MixingTraining)},
    "dense": {},
    "ground_truth": {"evaluation": keys(ScoringConfig)},
    "eval": {None: ("seed", "threads"), "evaluation": keys(EvalConfig)},
    "validation_loss": {None: ("threads",)},
    "lm_eval": {None: ("threads",), "evaluation": ("batch_size", "limit")},
    "summary": {},
}
# Flags of a step that no key of the configuration holds as they are.
FLAGS = {
    "weighted_init": ("lam",),
    "eval": ("prompt",),
    "lm_eval": ("tasks",),
}


def keys_of_step(step: str) -> dict[str, str]:
    """The keys on which a step's result depends, such as "moe.num_experts", by flag."""
    read = {
        name: f"{section}.{name}" if section else name
        for section, names in READS[step].items()
        for name in names
    }
    return read | {name: name for name in FLAGS.get(step, ())}


def options_of_step(step: str, config: XftConfig) -> dict[str, object]:
    """The values that the step's result depends on, by flag."""
    return {
        name: getattr(getattr(config, section) if section else config, name)
        for section, names in READS[step].items()
        for name in names
    }
