"""Reads a model's config.json, and refuses settings that must not reach transformers."""

import re
from pathlib import Path

from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError

# transformers builds one layer after the other, before it reads any weights.
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
MOST_LAYERS = 1000
# Other values name kernels on the hub, which are programs.
IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
OWN_IMPLEMENTATION = re.compile(r"\w+(\|\w+)?")
# Keys that do not change what a model computes. Trainers set some of them.
IDLE_KEYS = {"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"}


def read_model_config(file: Path) -> dict:
    """The content of a model's config.json.

    Raises UserError if the file is not sound JSON, or if it, or a config in it, names other
    weights, implementations that are not transformers' own, or more than MOST_LAYERS layers.
    """
    config = read_json(file)
    waiting: list = [config]
    while waiting:  # a loop: the configs may be nested as deeply as JSON allows
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            for key, value in part.items():
                if fault := _fault(key, value):
                    raise UserError(f"{file}: {key} = {value!s:.80}: {fault}")
            waiting += part.values()
    return config


def _fault(key: str, value: object) -> str | None:
    if key in LAYER_COUNTS and isinstance(value, int) and value > MOST_LAYERS:
        return f"at most {MOST_LAYERS} layers are read"
    if key == "transformers_weights":
        return "only the usual weight files are read. Remove this key"
    if IMPLEMENTATION.fullmatch(key):
        names = value.values() if isinstance(value, dict) else [value]
        if not all(name is None or OWN_IMPLEMENTATION.fullmatch(str(name)) for name in names):
            return "only transformers' own implementations are used. Remove this key"
    return None
