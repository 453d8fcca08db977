"""Which step's result depends on which keys of the configuration."""

from workflow_scripts import configuration
from workflow_scripts.configuration import MIXING_SHAPE, TOKENS_OPTIONS, TRAINING_UNRELATED

GENERATION = ("max_new_tokens", "batch_size", "samples", "temperature", "top_p", "backend")


def _training(section: str) -> list[str]:
    left_out = {*MIXING_SHAPE, *TRAINING_UNRELATED}
    return [key for key in configuration.properties(section) if key not in left_out]


# By step and section (None: the top level). A step's own flags follow: what no key of the
# configuration holds as it is.
STEP_KEYS: dict[str, dict[str | None, list[str]]] = {
    "base": {"base": ["model", "revision"]},
    "moe": {None: ["seed"], "moe": list(configuration.properties("moe"))},
    "fetch_data": {"data": ["train", "revision", "split"]},
    "fetch_problems": {},
    "tokens": {"data": TOKENS_OPTIONS},
    "moe_sft": {None: ["seed", "threads"], "training": _training("training")},
    "sft": {None: ["seed", "threads"], "sft": _training("sft")},
    "ffn": {},
    "weighted_init": {"mixing": MIXING_SHAPE},
    "weighted_trained": {None: ["seed", "threads"], "mixing": _training("mixing")},
    "dense": {},
    "ground_truth": {"evaluation": ["sandbox", "limit"]},
    "eval": {None: ["seed", "threads"], "evaluation": [*GENERATION, "limit", "sandbox"]},
    "validation_loss": {None: ["threads"]},
    "general": {None: ["threads"], "evaluation": ["batch_size", "limit"]},
    "summary": {},
}
FLAGS = {
    "weighted_init": ["lam"],
    "eval": ["prompt"],
    "general": ["tasks"],
}


def keys_of_step(step: str) -> dict[str, str]:
    """The keys on which a step's result depends, such as "moe.num_experts", by flag."""
    keys = {
        name: f"{section}.{name}" if section else name
        for section, names in STEP_KEYS[step].items()
        for name in names
    }
    return keys | {name: name for name in FLAGS.get(step, [])}


def options_of_step(step: str, config: dict) -> dict[str, object]:
    """The values of a completed config that the step's result depends on, by flag."""
    return {
        name: (config[section] if section else config)[name]
        for section, names in STEP_KEYS[step].items()
        for name in names
    }
