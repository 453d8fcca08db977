"""Reads a model's longest text and its vocabulary from its files, without loading it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from xft.checkpoints.header import read_tensors
from xft.checkpoints.model_config import read_config
from xft.checkpoints.reader import weight_files
from xft.common.errors import UserError

EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight")
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")
MERGES = re.compile(rb'"merges"\s*:\s*\[')
# Keys of a tokenizer's config that name tokens for images, sound and video.
MEDIA_TOKENS = re.compile(r"(image|audio|video|boi|eoi|boa|eoa)_token")


def window(config: dict) -> int | None:
    """The most tokens of a text that a model takes, by its config.json.

    None if no key states it, or if scaled positions or a sliding window allow longer texts.
    """
    stated = [value for key in WINDOW_KEYS if type(value := config.get(key)) is int]
    is_sliding = config.get("sliding_window") and config.get("use_sliding_window", True)
    return None if is_sliding or _is_scaled(config) else max(stated, default=None)


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
        raise UserError(
            f"{key} = {rank}: {name} has at most rank {sizes[name]}. Set {key} to at most that"
        )


def check_vocabulary(folder: Path) -> None:
    """Raise UserError if the tokenizer of a model folder has a token that the model lacks."""
    rows, highest = embedding_rows(folder), highest_token(folder)
    if rows is None or highest is None:
        return
    token, number = highest
    if number >= rows:
        raise UserError(
            f"{folder}: the token {token!r:.80} has the id {number}, but the embedding has {rows} "
            f"rows, for ids up to {rows - 1}. Use the tokenizer that belongs to the model, or add "
            "rows with transformers' resize_token_embeddings"
        )


def embedding_rows(folder: Path) -> int | None:
    """The number of tokens in a model's embedding, from its weights, or else its config.json.

    None if neither states it. Raises UserError if a file is damaged.
    """
    files = [folder / name for name in weight_files(folder) if (folder / name).is_file()]
    tensors = (item for file in files for item in read_tensors(file).items())
    for name, tensor in tensors:
        if name.endswith(EMBEDDINGS) and tensor.shape:
            return tensor.shape[0]
    config = folder / "config.json"
    stated = read_config(config).get("vocab_size") if config.is_file() else None
    return stated if type(stated) is int else None


def highest_token(folder: Path) -> tuple[str, int] | None:
    """The text token with the highest id in a folder's tokenizer, and its id.

    None if the folder has no tokenizer, or one in another form, such as only `tokenizer.model`.
    Raises UserError if a file is not JSON.
    """
    settings = _read(folder / "tokenizer_config.json")
    try:
        tokens = _vocabulary(folder) | _added(folder, settings)
        for token in _media_tokens(settings):
            tokens.pop(token, None)
        return max(tokens.items(), key=lambda item: item[1], default=None)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _vocabulary(folder: Path) -> dict[str, int]:
    """The ids of the tokens in the tokenizer's vocabulary files."""
    lines = folder / "vocab.txt"
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read(folder / "tokenizer.json")
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
        if isinstance(vocabulary, list):  # pieces with their scores
            vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
        return vocabulary | added
    if lines.is_file():
        words = lines.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return {word: i for i, word in enumerate(words)}
    return _read(folder / "vocab.json")


def _added(folder: Path, settings: dict) -> dict[str, int]:
    decoder = settings.get("added_tokens_decoder", {})
    named = {token["content"]: int(number) for number, token in decoder.items()}
    return _read(folder / "added_tokens.json") | named


def _media_tokens(settings: dict) -> list[str]:
    extra = [settings.get("extra_special_tokens"), settings.get("model_specific_special_tokens")]
    named = [settings, *(tokens for tokens in extra if isinstance(tokens, dict))]
    values = [v for tokens in named for key, v in tokens.items() if MEDIA_TOKENS.fullmatch(key)]
    return [v["content"] if isinstance(v, dict) else v for v in values]


def _read(file: Path) -> dict:
    """The object in a tokenizer's file; an empty object if the file is missing.

    The merges are most of a large tokenizer's file and not needed. They are left out if possible.
    """
    if not file.is_file():
        return {}
    content = file.read_bytes()
    head, *rest = MERGES.split(content, maxsplit=1)
    try:
        value = json.loads(head + b'"merges": []}}') if rest else None
        if value and "vocab" in value.get("model", {}):
            return value
    except ValueError:
        pass  # other keys follow
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    return value if isinstance(value, dict) else {}
