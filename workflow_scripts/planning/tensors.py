"""A model's tensors without their values: names, shapes and dtypes.

Conversions plan from a table as they do from a checkpoint, so what they would write is known
exactly.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.checkpoints.capacity import EMBEDDINGS
from workflow_scripts.checkpoints.dtypes import DTYPE_BYTES, FLOAT_NAMES
from workflow_scripts.checkpoints.header import read_tensors
from workflow_scripts.checkpoints.reader import INDEX_FILE, SINGLE_FILE
from workflow_scripts.checkpoints.strict_json import read_json
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.common.errors import UserError
from workflow_scripts.planning.architectures import is_known, is_tied, tensor_shapes

NEEDED_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    "vocab_size",
)
HEADS = ("lm_head.weight", "embed_out.weight")
BUFFERS = ("rotary_emb.inv_freq", "attention.masked_bias")  # in files of old versions


@dataclass(frozen=True)
class TensorTable:
    """Shape and dtype (safetensors' spelling) of each tensor of a model, and its config.json.

    folder: what messages call it. source: how the sizes are known, for the report.
    """

    tensors: dict[str, tuple[tuple[int, ...], str]]
    config: dict
    folder: str
    source: str

    @property
    def names(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][0]

    def dtype(self, name: str) -> str:
        return self.tensors[name][1]

    def size(self, name: str) -> int:
        """The number of values of a tensor."""
        return math.prod(self.shape(name))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors in a file."""
        return sum(self.size(name) * DTYPE_BYTES[self.dtype(name)] for name in self.tensors)

    @property
    def parameters(self) -> dict[str, int]:
        """The size of each tensor that is a parameter of the model in memory."""
        tied = HEADS if is_tied(self.config.get("base_config", self.config)) else ()
        return {
            name: self.size(name)
            for name in self.names
            if self.dtype(name) in FLOAT_NAMES and not name.endswith((*BUFFERS, *tied))
        }

    @property
    def embedding(self) -> int:
        """The values of the embedding that only look up: none where the output layer shares it."""
        tied = is_tied(self.config.get("base_config", self.config))
        return 0 if tied else sum(self.size(n) for n in self.names if n.endswith(EMBEDDINGS))


def read_table(folder: Path) -> TensorTable:
    """The table of a model folder, from the headers of its safetensors files. Raises UserError."""
    config = read_json(folder / "config.json")
    files = {SINGLE_FILE}
    if (folder / INDEX_FILE).exists():
        files = set(read_json(folder / INDEX_FILE).get("weight_map", {}).values())
    tensors = {}
    for file in sorted(files):
        for name, tensor in read_tensors(folder / file).items():
            tensors[name] = (tensor.shape, tensor.dtype)
    return TensorTable(tensors, config, str(folder), "exact, from the weights' headers")


def has_weights(folder: Path) -> bool:
    """Whether a model folder holds safetensors."""
    return (folder / SINGLE_FILE).exists() or (folder / INDEX_FILE).exists()


def compute_table(config_file: Path) -> TensorTable:
    """The table of a model of which only config.json is known.

    Raises UserError where the file lacks what gives the sizes.
    """
    config = read_json(config_file)
    wrong = [key for key in NEEDED_KEYS if not isinstance(config.get(key), int)]
    if wrong:
        raise UserError(
            f"{config_file} has no whole number for {', '.join(wrong)}: not the config.json of a "
            "causal language model"
        )
    names = {name: short for short, name in FLOAT_NAMES.items()}
    stated = config.get("dtype") or config.get("torch_dtype")
    dtype = names.get(stated, "F32")
    source = "exact, from config.json"
    if not is_known(config):
        source = (
            f"about, from config.json: as a Llama of these sizes, since the model type "
            f"{config.get('model_type')!r} is not known"
        )
    tensors = {name: (shape, dtype) for name, shape in tensor_shapes(config).items()}
    return TensorTable(tensors, config, str(config_file), source)


def planned_table(plans: Iterable[TensorPlan], like: TensorTable) -> TensorTable:
    """The table of what a conversion would write from `like`."""
    tensors = {plan.name: (plan.shape, plan.dtype) for plan in plans}
    return TensorTable(tensors, like.config, like.folder, like.source)
