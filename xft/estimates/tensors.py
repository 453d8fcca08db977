"""Tables of a model's tensors without their values: names, shapes and dtypes.

Conversions can plan from a table instead of a checkpoint. So the sizes of their outputs are exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from xft.checkpoints.header import DTYPE_BYTES, FLOAT_NAMES, TensorInfo
from xft.checkpoints.model_files import EMBEDDINGS, INDEX_FILE, SINGLE_FILE, read_model_config
from xft.checkpoints.reader import CheckpointHeaders, TensorTable
from xft.common.errors import UserError
from xft.common.progress import say
from xft.config.sections import BaseConfig
from xft.hub.source import find_config

NEEDED_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    "vocab_size",
)
HEADS = ("lm_head.weight", "embed_out.weight")
BUFFERS = ("rotary_emb.inv_freq", "attention.masked_bias")  # in files of old versions
LONGEST_REASON = 300


@dataclass(frozen=True)
class ModelTable(TensorTable):
    """The tensors of a model without their values, and its config.json.

    folder: the name of the model in messages.
    """

    tensors: Mapping[str, TensorInfo]
    config: dict
    folder: str

    def size(self, name: str) -> int:
        """The number of values of a tensor."""
        return math.prod(self.shape(name))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors in a file."""
        return sum(self.size(name) * DTYPE_BYTES[self.dtype(name)] for name in self.tensors)

    @property
    def query_width(self) -> int:
        """The width of the queries of all heads of a layer."""
        return self.config["num_attention_heads"] * self._head_size

    @property
    def key_width(self) -> int:
        """The width of the keys of all heads of a layer, and of the values."""
        heads = self.config.get("num_key_value_heads") or self.config["num_attention_heads"]
        return heads * self._head_size

    @property
    def _head_size(self) -> int:
        heads = self.config["num_attention_heads"]
        return self.config.get("head_dim") or self.config["hidden_size"] // heads

    @property
    def is_tied(self) -> bool:
        """Whether the output layer and the embedding share their weight."""
        has_head = any(name.endswith(HEADS) for name in self.tensors)
        return bool(self.config.get("tie_word_embeddings")) or not has_head

    @property
    def parameters(self) -> dict[str, int]:
        """The number of values of each parameter of the model in memory, by name."""
        tied = HEADS if self.is_tied else ()
        return {
            name: self.size(name)
            for name in self.names
            if self.dtype(name) in FLOAT_NAMES and not name.endswith((*BUFFERS, *tied))
        }

    @property
    def embedding(self) -> int:
        """The size of an embedding that is only looked up; 0 if the output layer shares it."""
        if self.is_tied:
            return 0
        return sum(self.size(name) for name in self.names if name.endswith(EMBEDDINGS))


def find_table(base: BaseConfig, model_config: Path | None) -> ModelTable:
    """The table of the base, from its weights' headers or its config.json. Raises UserError.

    model_config: another config.json to take.
    """
    try:
        file = model_config or find_config(base.model, base.revision)
    except UserError as error:
        raise UserError(
            f"{error}. Without a network, name the model's config.json, a small file, with "
            "--model-config"
        ) from None
    if model_config is None and has_weights(file.parent):
        return read_table(file.parent)
    say("Building the model without its weights: ten seconds to a minute.")
    return compute_table(file)


def read_table(folder: Path) -> ModelTable:
    """The table of a model folder, from the headers of its safetensors files. Raises UserError."""
    headers = CheckpointHeaders(folder)
    return ModelTable(headers.tensors, headers.config, str(folder))


def has_weights(folder: Path) -> bool:
    """Whether a model folder holds safetensors."""
    return (folder / SINGLE_FILE).exists() or (folder / INDEX_FILE).exists()


def compute_table(config_file: Path) -> ModelTable:
    """The table of a model from its config.json alone.

    Raises UserError if the file lacks a size, or if transformers cannot build the model.
    """
    config = read_model_config(config_file)
    check_sizes(config, config_file)
    stated = config.get("dtype") or config.get("torch_dtype")
    dtype = next((short for short, name in FLOAT_NAMES.items() if name == stated), "F32")
    parameters = _build(config, config_file).named_parameters()
    tensors = {name: TensorInfo(dtype, tuple(values.shape)) for name, values in parameters}
    return ModelTable(tensors, config, str(config_file))


def check_sizes(config: dict, file: Path) -> None:
    """Raise UserError if a model's config.json does not state the sizes that plans need."""
    wrong = [key for key in NEEDED_KEYS if not isinstance(config.get(key), int)]
    if wrong:
        raise UserError(
            f"{file} has no whole number for {', '.join(wrong)}: it is not the config.json of a "
            "causal language model"
        )


def _build(config: dict, config_file: Path):
    """transformers' model without values."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**config),
                attn_implementation="eager",  # other implementations may be missing on this machine
                trust_remote_code=False,
            )
    except Exception as error:  # each model type raises its own errors
        reason = shorten(f"{type(error).__name__}: {error}", LONGEST_REASON)
        raise UserError(f"{config_file}: transformers cannot build the model: {reason}") from error
