"""Reads a model folder's safetensors: only the headers, or memory-mapped tensors one at a time."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from xft.checkpoints import model_files
from xft.checkpoints.model_files import FLOAT_NAMES, INDEX_FILE, SINGLE_FILE, TensorInfo
from xft.common.errors import UserError
from xft.common.json_files import read_json

ADAPTER_FILE = "adapter_config.json"
# In the metadata of an index: its files hold other tensors too, which are not the checkpoint's.
SELECTION = "is_selection"


class TensorTable:
    """Tensors without their values: `tensors`, by name."""

    tensors: Mapping[str, TensorInfo]

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """The tensor's dtype in safetensors' spelling ("F32", "BF16")."""
        return self.tensors[name].dtype

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self.dtype(name) in FLOAT_NAMES


class TensorSource(ABC, TensorTable):
    """Tensors with their values, and the config of their model: in files, or in memory.

    folder: the place, for messages.
    config: as config.json has it.
    """

    folder: Path | str
    config: dict

    @cached_property
    def _finite(self) -> set[str]:
        """The tensors whose values have been checked."""
        return set()

    @abstractmethod
    def get(self, name: str):
        """The tensor `name`, in torch."""

    def get_finite(self, name: str):
        """The tensor `name`, whose values are checked once. Raises UserError at NaN or infinity."""
        tensor = self.get(name)
        if self.is_float(name) and name not in self._finite:
            check_finite(tensor, name, self.folder)
            self._finite.add(name)
        return tensor


class CheckpointHeaders(TensorTable):
    """The headers of the safetensors files in a folder.

    The folder holds `model.safetensors`, or shards and their index.
    """

    def __init__(self, folder: Path):
        """Raises UserError if the folder, a shard or the index is missing or broken."""
        self.folder = Path(folder)
        self.tensors = {}
        self._files = self._locate()

    @property
    def files(self) -> list[str]:
        """Names of the safetensors files, sorted."""
        return sorted(set(self._files.values()))

    def file(self, name: str) -> str:
        """The name of the safetensors file that holds a tensor."""
        return self._files[name]

    @cached_property
    def config(self) -> dict:
        """The folder's config.json. Raises UserError as `read_model_config` does."""
        return model_files.read_model_config(self.folder / "config.json")

    def _locate(self) -> dict[str, str]:
        """The file of each tensor. Reads, and so checks, the headers of all `tensors`."""
        index_file = self.folder / INDEX_FILE
        single_file = self.folder / SINGLE_FILE
        if os.path.lexists(index_file):
            return self._check_index(read_json(index_file))
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder")
        if not os.path.lexists(single_file):
            raise UserError(f"{self.folder} {_instead_of_weights(self.folder)}")
        self.tensors = model_files.read_tensors(single_file)
        return dict.fromkeys(self.tensors, SINGLE_FILE)

    def _check_index(self, index: dict) -> dict[str, str]:
        """The file of each tensor, by an index. Raises UserError if the shards do not fit it."""
        index_file = self.folder / INDEX_FILE
        weight_map = index.get("weight_map")
        if not weight_map or not isinstance(weight_map, dict):
            raise UserError(f"{index_file} has no weight_map")
        is_selection = (index.get("metadata") or {}).get(SELECTION)
        stated = {}  # the names of each file's tensors
        for name, file in weight_map.items():
            if not model_files.is_file_name(file):
                raise UserError(f"{index_file} names {file!r:.80}, which is not inside its folder")
            stated.setdefault(file, set()).add(name)
        for file, names in sorted(stated.items()):
            path = self.folder / file
            held = model_files.read_tensors(path)
            lost = names - held.keys()
            if lost:
                raise UserError(f"{path} lacks {min(lost)}, which the index puts there")
            foreign = held.keys() - names
            if foreign and not is_selection:
                name = min(foreign)
                place = weight_map.get(name, "no file")
                raise UserError(f"{path} holds {name}, which {index_file} puts in {place}")
            self.tensors.update({name: held[name] for name in names})
        return weight_map


class Checkpoint(CheckpointHeaders, TensorSource):
    """The headers and the tensors of a folder.

    Tensors are memory-mapped: `get` needs no memory until the values are used, and they stay
    readable if the files are removed.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._mapped = {
            file: model_files.open_safetensors(self.folder / file, "pt") for file in self.files
        }

    def get(self, name: str):
        """The tensor `name` as a memory-mapped torch tensor."""
        return self._mapped[self._files[name]].get_tensor(name)


def check_finite(tensor, name: str, folder: Path | str) -> None:
    """Raise UserError if a tensor of floating-point numbers holds NaN or infinity."""
    if tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):  # NaN wins in both
        raise UserError(
            f"{folder}: {name} holds NaN or infinity. The file is damaged, or the model's training "
            "diverged: use another copy or checkpoint"
        )


def _instead_of_weights(folder: Path) -> str:
    """The content of a folder without safetensors, and what to do."""
    if (folder / ADAPTER_FILE).exists():
        return (
            f"holds a LoRA adapter ({ADAPTER_FILE}), which is no whole model. Load it with peft, "
            "and write the model with merge_and_unload and save_pretrained"
        )
    return (
        f"has no {SINGLE_FILE} and no {INDEX_FILE}. Only safetensors are read. docs/hub.md, "
        "section Other weights, has the lines that convert GGUF and pickles"
    )
