"""Reads the files of a model folder: config.json, headers of safetensors, tokenizer, card.

Settings in config.json that must not reach transformers are refused.

A safetensors file is 8 bytes that hold the header's length (little-endian), the header, then the
values of all tensors. The library safetensors checks the header when it opens the file. This module
first checks what safetensors reports unclearly, or only after it used much memory.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from xft.common.errors import UserError
from xft.common.file_access import open_regular, read_bytes
from xft.common.json_files import read_if_there, read_json

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as in safetensors itself
# Other formats that are often named *.safetensors. Read as a length, each start is far too large.
FOREIGN = {
    re.compile(rb"PK\x03\x04"): "a zip, not safetensors; nothing is unpickled",
    re.compile(rb"\x80[\x02-\x05]"): "a pickle, not safetensors; nothing is unpickled",
    re.compile(rb"version "): "a pointer of Git LFS, not safetensors; fetch the file itself",
}
DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
}
FLOAT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INTEGER_NAMES = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
TORCH_NAMES = FLOAT_NAMES | INTEGER_NAMES | {"BOOL": "bool"}


class TensorInfo(NamedTuple):
    """A tensor by its header. dtype: in safetensors' spelling ("F32", "BF16")."""

    dtype: str
    shape: tuple[int, ...]


def hash_header(path: Path) -> str:
    """SHA-256 of the length and the header, as hexadecimal digits.

    Raises UserError if the file cannot hold such a header, before that much is read.
    """
    length = _header_length(path)
    with path.open("rb") as file:
        return hashlib.sha256(file.read(PREFIX_BYTES + length)).hexdigest()


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a file, by name. No values are read, and torch is not needed.

    Raises UserError unless the file is a regular one and its header is sound: known dtypes, and
    offsets that fit the shapes, follow each other without gap or overlap, and cover the file.
    """
    _header_length(path)
    with open_safetensors(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        tensors = {n: TensorInfo(s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    for name, (dtype, _) in tensors.items():
        if dtype not in DTYPE_BYTES:
            raise UserError(
                f"{path}: {name[:80]!r} is of the type {dtype}, which is not supported. Convert "
                "the weights to bfloat16 or float32 first"
            )
    return tensors


def open_safetensors(path: Path, framework: str):
    """The file as safetensors opens it: checked, and mapped into memory.

    framework: "pt" for torch's tensors, "numpy" without torch. Raises UserError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework)
    except SafetensorError as error:
        raise _broken(path, f"safetensors says {str(error)[:200]!r}") from None


def _header_length(path: Path) -> int:
    """The length of the header in bytes. Raises UserError if it cannot be right."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(PREFIX_BYTES)
    length = int.from_bytes(prefix, "little")
    if length <= min(MAX_HEADER_BYTES, size - PREFIX_BYTES):
        return length
    for start, what in FOREIGN.items():
        if start.match(prefix):
            raise UserError(f"{path} is {what}")
    raise _broken(path, f"its {size} bytes cannot hold a header of {length} bytes")


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {reason}. Fetch it or make it again")


def torch_dtype(name: str):
    """torch's dtype for a type in safetensors' spelling ("F32", "BF16")."""
    import torch

    return getattr(torch, TORCH_NAMES[name])


SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# transformers builds one layer after the other, before it reads any weights.
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
MOST_LAYERS = 1000
# Other values name kernels on the hub, which are programs.
IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
OWN_IMPLEMENTATION = re.compile(r"\w+(\|\w+)?")
# Keys that do not change what a model computes. Trainers set some of them.
IDLE_KEYS = {"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"}
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight")
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")
# Keys of a tokenizer's config that name tokens for images, sound and video.
MEDIA_TOKENS = re.compile(r"(image|audio|video|boi|eoi|boa|eoa)_token")


def weight_files(folder: Path) -> list[str]:
    """The names of a folder's weight files by its index. The files need not exist.

    Raises UserError if the index is not JSON.
    """
    if not (folder / INDEX_FILE).exists():
        return [SINGLE_FILE]
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    files = weight_map.values() if isinstance(weight_map, dict) else []
    return sorted({file for file in files if is_file_name(file)})


def is_file_name(value: object) -> bool:
    """Whether a value is the name of a file, without a folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\0"} & set(value)


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
                if fault := _fault_of_setting(key, value):
                    raise UserError(f"{file}: {key} = {value!s:.80}: {fault}")
            waiting += part.values()
    return config


def _fault_of_setting(key: str, value: object) -> str | None:
    if key in LAYER_COUNTS and isinstance(value, int) and value > MOST_LAYERS:
        return f"at most {MOST_LAYERS} layers are read"
    if key == "transformers_weights":
        return "only the usual weight files are read. Remove this key"
    if IMPLEMENTATION.fullmatch(key):
        names = value.values() if isinstance(value, dict) else [value]
        if not all(name is None or OWN_IMPLEMENTATION.fullmatch(str(name)) for name in names):
            return "only transformers' own implementations are used. Remove this key"
    return None


def window(config: dict) -> int | None:
    """The most tokens of a text that a model takes, by its config.json.

    None if no key states it, or if scaled positions or a sliding window allow longer texts.
    """
    is_sliding = config.get("sliding_window") and config.get("use_sliding_window", True)
    if is_sliding or _is_scaled(config):
        return None
    values = [config.get(key) for key in WINDOW_KEYS]
    stated = [value for value in values if type(value) is int]
    return max(stated, default=None)


def _is_scaled(config: dict) -> bool:
    """Whether positions are scaled. Newer configs hold settings for each kind of layer."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        return True
    kinds = [settings, *(value for value in settings.values() if isinstance(value, dict))]
    types = {kind.get("rope_type", kind.get("type")) for kind in kinds}
    return not types <= {None, "default"}


def check_rank(key: str, rank: int, sizes: Mapping[str, int]) -> None:
    """Raise UserError if low-rank products of matrices have a larger rank than a matrix.

    sizes: the smaller size of each matrix, by its name, as far as they are known.
    """
    name = min(sizes, key=sizes.__getitem__, default=None)
    if name is not None and rank > sizes[name]:
        raise UserError(f"{key} = {rank}: {name} has at most rank {sizes[name]}. Set at most that")


def check_vocabulary(folder: Path) -> None:
    """Raise UserError if the tokenizer of a model folder has a token that the model lacks."""
    size = embedding_size(folder)
    highest = highest_token(folder)
    if size is None or highest is None:
        return
    token, number = highest
    if number >= size:
        raise UserError(
            f"{folder}: the token {token!r:.80} has the id {number}, but the embedding has {size} "
            f"rows, for ids up to {size - 1}. Use the model's own tokenizer, where EOS can pad: "
            "tokenizer.pad_token = tokenizer.eos_token. Or add rows to the base, before tuning, by "
            "resize_token_embeddings"
        )


def embedding_size(folder: Path) -> int | None:
    """The number of tokens in a model's embedding, from its weights, or else its config.json.

    None if neither states it. Raises UserError if a file is damaged.
    """
    for file in weight_files(folder):
        if not (folder / file).is_file():
            continue
        for name, tensor in read_tensors(folder / file).items():
            if name.endswith(EMBEDDINGS) and tensor.shape:
                return tensor.shape[0]
    config = folder / "config.json"
    stated = read_model_config(config).get("vocab_size") if config.is_file() else None
    return stated if type(stated) is int else None


def highest_token(folder: Path) -> tuple[str, int] | None:
    """The text token with the highest id in a folder's tokenizer, and its id.

    None if the folder has no `tokenizer.json`. Raises UserError if that cannot be read.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    tokens = read_tokenizer(file).get_vocab()
    settings = read_if_there(folder / "tokenizer_config.json")
    try:  # transformers adds the tokens of these files, too
        decoder = settings.get("added_tokens_decoder", {})
        tokens |= read_if_there(folder / "added_tokens.json")
        tokens |= {token["content"]: int(number) for number, token in decoder.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    for token in _media_tokens(settings):
        tokens.pop(token, None)
    return max(tokens.items(), key=lambda item: item[1], default=None)


def read_tokenizer(file: Path):
    """The tokenizer of a `tokenizer.json`, without torch. Raises UserError."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(read_bytes(file))
    except Exception as error:  # the library has no class of its own
        raise UserError(f"{file} cannot be read: {error}") from None


def _media_tokens(settings: dict) -> list[str]:
    """The tokens for images, sound and video that a tokenizer's config names."""
    groups = [settings]
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(settings.get(key), dict):
            groups.append(settings[key])
    tokens = []
    for group in groups:
        for key, value in group.items():
            if MEDIA_TOKENS.fullmatch(key):
                tokens.append(value.get("content") if isinstance(value, dict) else str(value))
    return tokens


def fact_of_card(folder: Path | str, key: str) -> str | None:
    """The value of a key, such as license, in a model folder; None if no card states it."""
    file = Path(folder) / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if front is None:
        return None
    stated = re.search(rf"^{key}: *([\w./-]+)$", front[1], re.MULTILINE)
    return None if stated is None else stated[1]
