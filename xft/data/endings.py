"""The tokens that end a response, and the generation config of a tuned model, which states them."""

from pathlib import Path

from xft.checkpoints.strict_json import read_json
from xft.data.templates import Template

GENERATION_CONFIG = "generation_config.json"


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
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
