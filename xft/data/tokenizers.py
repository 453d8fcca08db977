"""Tokenizers of model folders, and the tokens that end a response.

A folder's files tell much of this without loading: chat templates, EOS, and the generation config,
which states the tokens at which a tuned model ends.
"""

import json
from pathlib import Path

from xft.artifacts.manifest import hash_file, json_sha256
from xft.checkpoints.model_files import read_model_config
from xft.common.errors import UserError
from xft.common.json_files import read_if_there, read_json
from xft.data.prompt_templates import Template

PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")  # others may have an own EOS
GENERATION_CONFIG = "generation_config.json"


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
    """The SHA-256 of each part of a tokenizer that decides what it does with a text, by name.

    It is the same after `save_pretrained`, by which trainers write other files. Padding, its token
    and truncation are not in it: trainers set them, and tokens hold no padding. Raises UserError as
    `load_tokenizer`.
    """
    tokenizer = load_tokenizer(folder)
    special = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if name != "pad_token"
    }
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
    settings = read_if_there(folder / "tokenizer_config.json")
    named = read_if_there(folder / "special_tokens_map.json")
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


def end_tokens(eos: int | list[int] | None, tokenizer, template: Template) -> list[int]:
    """The ids of the tokens that end a response: EOS, then the template's end of a turn.

    eos: as the model's generation config states it; None: the tokenizer's.
    """
    ids = _listed(tokenizer.eos_token_id if eos is None else eos)
    if template.end_of_turn is not None:
        ids = [*ids, tokenizer.convert_tokens_to_ids(template.end_of_turn)]
    return list(dict.fromkeys(ids))


def tuned_generation_config(
    folder: Path, config: dict, tokenizer, template: Template
) -> dict | None:
    """The generation config of a model, once it is tuned with a template that ends turns.

    folder, config: the model's before its tuning. None: nothing changes, because the template ends
    no turn, or with a token that the model states already.
    """
    if template.end_of_turn is None:
        return None
    settings = generation_settings(folder, config.get("base_config", config))
    stated = settings.get("eos_token_id")
    ends = end_tokens(stated, tokenizer, template)
    if ends == _listed(stated):
        return None
    settings.pop("_from_model_config", None)  # older transformers would read config.json instead
    return settings | {"eos_token_id": ends}


def generation_settings(folder: Path, config: dict) -> dict:
    """The generation config of a model as plain transformers reads it.

    config: of a dense model, for a folder without such a file.
    """
    from transformers import GenerationConfig

    file = folder / GENERATION_CONFIG
    if file.is_file():
        return read_json(file)
    return GenerationConfig.from_model_config(config).to_diff_dict()


def stated_ends(folder: Path) -> list[list[int]]:
    """The ids of EOS in a model's config.json, and in its generation config."""
    config = read_json(folder / "config.json")
    config = config.get("base_config", {}) | config
    settings = generation_settings(folder, config)
    return [_listed(stated.get("eos_token_id")) for stated in (config, settings)]


def _listed(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]
