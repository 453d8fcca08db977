"""Loads and compares tokenizers of model folders, and looks for chat templates without loading."""

import json
from pathlib import Path

from xft.artifacts.manifest import hash_file, json_sha256
from xft.checkpoints.model_config import read_model_config
from xft.checkpoints.strict_json import read_if_there
from xft.common.errors import UserError

PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")  # others may have an own EOS


def load_tokenizer(folder: Path):
    """The tokenizer of a model folder. Raises UserError if it cannot be loaded.

    transformers chooses the tokenizer's class by the model's type too. An upcycled model gets its
    base's class, so the same files are the same tokenizer in all artifacts.
    """
    from transformers import AutoConfig, AutoTokenizer

    base = _config(Path(folder)).get("base_config")
    try:
        options = {"config": AutoConfig.for_model(**base)} if base else {}
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {error}") from error


def tokenizer_identity(folder: Path) -> dict[str, str]:
    """What the tokenizer of a model folder does with a text: the SHA-256 of each part, by name.

    It is the same after `save_pretrained`, by which trainers write other files. Padding, its token
    and truncation are not in it: trainers set them, and tokens hold no padding. Raises UserError as
    `load_tokenizer`.
    """
    tokenizer = load_tokenizer(folder)
    special = {n: str(t) for n, t in tokenizer.special_tokens_map.items() if n != "pad_token"}
    if hasattr(tokenizer, "backend_tokenizer"):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        parts = {name: parts[name] for name in parts.keys() - {"version", "padding", "truncation"}}
    else:  # one in Python: save_pretrained copies the files of its vocabulary
        files = (Path(folder, name) for name in tokenizer.vocab_files_names.values())
        parts = {file.name: hash_file(file) for file in files if file.is_file()}
        parts["added_tokens"] = tokenizer.get_added_vocab()
    parts |= {"special tokens": special, "chat template": tokenizer.chat_template}
    return {name: json_sha256(part) for name, part in sorted(parts.items())}


def class_choice(folder: Path) -> dict[str, str]:
    """The values of config.json that decide on the tokenizer's class, as for `load_tokenizer`."""
    config = _config(folder)
    config = config.get("base_config", config)
    return {key: config[key] for key in ("model_type", "tokenizer_class") if config.get(key)}


def check_eos(folder: Path) -> None:
    """Raise UserError if the tokenizer of a folder surely has no EOS token, by its files."""
    names = ("tokenizer_config.json", "special_tokens_map.json")
    settings, named = (read_if_there(folder / name) for name in names)
    is_plain = settings.get("tokenizer_class") in PLAIN_CLASSES
    if is_plain and not settings.get("eos_token") and not named.get("eos_token"):
        raise UserError(no_eos(folder))


def no_eos(name: str | Path) -> str:
    """The message about a tokenizer without an EOS token."""
    return (
        f"the tokenizer of {name} has no EOS token. Each response must end with it: set eos_token "
        "in its tokenizer_config.json"
    )


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer files of a folder hold a default chat template.

    Raises UserError if a file is damaged.
    """
    files = ("chat_template.jinja", "additional_chat_templates/default.jinja")
    if any((folder / name).is_file() for name in files):
        return True
    stated = read_if_there(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(stated, list):
        return any(isinstance(entry, dict) and entry.get("name") == "default" for entry in stated)
    return bool(stated)


def _config(folder: Path) -> dict:
    file = folder / "config.json"
    return read_model_config(file) if file.is_file() else {}
