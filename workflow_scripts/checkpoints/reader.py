"""Lazy reading of a model folder's safetensors: memory-mapped, one tensor at a time."""

import json
from functools import cached_property
from pathlib import Path

from workflow_scripts.errors import UserError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class Checkpoint:
    """The tensors of a folder with `model.safetensors`, or with shards and their index.

    Tensors are memory-mapped: `get` costs no memory before the values are used.
    """

    def __init__(self, folder: Path):
        """Raises UserError where the folder, a shard or the index is missing or broken."""
        self.folder = Path(folder)
        self._open_files = {}
        self._files = self._locate()

    @property
    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._files)

    @property
    def files(self) -> list[str]:
        """Names of the safetensors files, sorted."""
        return sorted(set(self._files.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str):
        """The tensor `name` as a memory-mapped torch tensor."""
        return self._handle(name).get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the header alone."""
        return tuple(self._handle(name).get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's dtype in safetensors' spelling ("F32", "BF16"), from the header alone."""
        return self._handle(name).get_slice(name).get_dtype()

    @cached_property
    def config(self) -> dict:
        """The folder's config.json."""
        return read_json(self.folder / "config.json")

    def _handle(self, name: str):
        file = self._files[name]
        if file not in self._open_files:
            self._open_files[file] = _open(self.folder / file)
        return self._open_files[file]

    def _locate(self) -> dict[str, str]:
        index_file, single_file = self.folder / INDEX_FILE, self.folder / SINGLE_FILE
        if index_file.exists():
            return self._check_index(read_json(index_file).get("weight_map"))
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder")
        if not single_file.exists():
            raise UserError(
                f"{self.folder} has no {SINGLE_FILE} and no {INDEX_FILE}. "
                "Only safetensors are read; convert other weights with save_pretrained first"
            )
        return dict.fromkeys(_open(single_file).keys(), SINGLE_FILE)

    def _check_index(self, weight_map: object) -> dict[str, str]:
        index_file = self.folder / INDEX_FILE
        if not weight_map or not isinstance(weight_map, dict):
            raise UserError(f"{index_file} has no weight_map")
        for file in {str(file) for file in weight_map.values()}:
            if Path(file).name != file:
                raise UserError(f"{index_file} names {file!r}, which is not inside its folder")
            held = set(_open(self.folder / file).keys())
            lost = {name for name, place in weight_map.items() if place == file} - held
            if lost:
                raise UserError(
                    f"{self.folder / file} lacks {min(lost)}, which the index puts there"
                )
        return weight_map


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises UserError where it is missing or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value


def _open(path: Path):
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None
