"""Loads the tokenizer of a model folder, and looks for its chat template without loading it."""

from pathlib import Path

from xft.checkpoints.model_config import read_config
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError


def load_tokenizer(folder: Path):
    """The tokenizer of a model folder. Raises UserError if it cannot be loaded.

    transformers chooses the tokenizer's class by the model's type too. An upcycled model gets its
    base's class, so the same files are the same tokenizer in all artifacts.
    """
    from transformers import AutoConfig, AutoTokenizer

    file = Path(folder) / "config.json"
    base = read_config(file).get("base_config") if file.is_file() else None
    try:
        options = {"config": AutoConfig.for_model(**base)} if base else {}
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {error}") from error


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer files of a folder hold a default chat template.

    Raises UserError if a file is damaged.
    """
    files = ("chat_template.jinja", "additional_chat_templates/default.jinja")
    if any((folder / name).is_file() for name in files):
        return True
    file = folder / "tokenizer_config.json"
    stated = read_json(file).get("chat_template") if file.is_file() else None
    if isinstance(stated, list):
        return any(isinstance(one, dict) and one.get("name") == "default" for one in stated)
    return bool(stated)
