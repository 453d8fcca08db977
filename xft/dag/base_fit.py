"""Checks by its files whether the base model supports what a config asks for."""

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.checkpoints.capacity import check_rank, window
from xft.checkpoints.model_config import read_config
from xft.common.errors import UserError
from xft.config.sections import XftConfig
from xft.data.templates import CHAT
from xft.data.tokenizers import has_chat_template
from xft.hub.source import find_local


def check_base(config: XftConfig) -> None:
    """Raise UserError with the key of an option that the base does not support.

    The length of texts, chat templates and the ranks of low-rank products are checked. The rest is
    left to the steps that read the base first. Nothing is fetched: files that are not on this
    machine are not checked.
    """
    base, data, evaluation = config.base, config.data, config.evaluation
    folder = find_local(base.model, base.revision, ["config.json"])
    stated = read_config(folder / "config.json") if folder else {}
    sizes = [stated.get(name) for name in ("hidden_size", "intermediate_size")]
    known = [size for size in sizes if isinstance(size, int)]
    smaller = {f"a matrix of {base.model}": min(known)} if known else {}
    ranks = {"moe.rank": config.moe.rank} if config.moe.experts == "lora" else {}
    if config.sft.lora_rank is not None:
        ranks["sft.lora_rank"] = config.sft.lora_rank
    for key, rank in ranks.items():
        check_rank(key, rank, smaller)
    tokens = window(stated)
    if tokens is not None:
        new = evaluation.max_new_tokens
        _check_length("data.max_length", data.max_length, base.model, tokens, most=tokens)
        _check_length("evaluation.max_new_tokens", new, base.model, tokens, most=tokens - 1)
    folder = find_local(base.model, base.revision, TOKENIZER_PATTERNS)
    templates = {"data.template": data.template, "evaluation.base_prompt": evaluation.base_prompt}
    asking = [key for key, name in templates.items() if name == CHAT]
    if folder and asking and not has_chat_template(folder):
        raise UserError(
            f"{asking[0]} = {CHAT}: {base.model} has no chat template: neither chat_template.jinja "
            "nor chat_template in tokenizer_config.json. Use the template magicoder, or a file"
        )


def _check_length(key: str, value: int, model: str, window: int, most: int) -> None:
    if value > most:
        room = "" if most == window else ", and the prompt needs some of them"
        raise UserError(
            f"{key} = {value}: {model} takes texts of at most {window} tokens, by its "
            f"config.json{room}. Set at most {most}"
        )
