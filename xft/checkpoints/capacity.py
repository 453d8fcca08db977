"""Reads a model's longest text and its vocabulary from its files, without loading it."""

import re
from collections.abc import Mapping
from pathlib import Path

from xft.checkpoints.header import read_tensors
from xft.checkpoints.model_config import read_model_config
from xft.checkpoints.reader import weight_files
from xft.checkpoints.strict_json import read_if_there
from xft.common.errors import UserError
from xft.common.files import read_bytes

EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight")
WINDOW_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")
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
    if rows is not None and highest is not None and highest[1] >= rows:
        token, number = highest
        raise UserError(
            f"{folder}: the token {token!r:.80} has the id {number}, but the embedding has {rows} "
            f"rows, for ids up to {rows - 1}. Use the model's own tokenizer, where EOS can pad: "
            "tokenizer.pad_token = tokenizer.eos_token. Or add rows to the base, before tuning, by "
            "resize_token_embeddings"
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
    stated = read_model_config(config).get("vocab_size") if config.is_file() else None
    return stated if type(stated) is int else None


def highest_token(folder: Path) -> tuple[str, int] | None:
    """The text token with the highest id in a folder's tokenizer, and its id.

    None if the folder has no `tokenizer.json`. Raises UserError if that cannot be read.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        tokens = Tokenizer.from_buffer(read_bytes(file)).get_vocab()
    except Exception as error:  # the library has no class of its own
        raise UserError(f"{file} cannot be read: {error}") from None
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


def _media_tokens(settings: dict) -> list[str]:
    extra = [settings.get("extra_special_tokens"), settings.get("model_specific_special_tokens")]
    named = [settings, *(tokens for tokens in extra if isinstance(tokens, dict))]
    values = [v for tokens in named for key, v in tokens.items() if MEDIA_TOKENS.fullmatch(key)]
    return [v.get("content") if isinstance(v, dict) else str(v) for v in values]
