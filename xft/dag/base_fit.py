"""Checks by their files whether models support what a config asks for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xft.artifacts.artifact import TOKENIZER_PATTERNS
from xft.checkpoints.capacity import check_rank, check_vocabulary, window
from xft.checkpoints.model_config import read_model_config
from xft.common.errors import UserError, errors_at
from xft.config.sections import BaseConfig, DataConfig, MoeConfig, mixture_settings
from xft.data.conversations import Conversation
from xft.data.instructions import describe
from xft.data.row_files import read_files
from xft.data.templates import ANOTHER, CHAT, ChatTemplate, TemplateFault
from xft.data.tokenizers import check_eos, has_chat_template, load_tokenizer
from xft.hub.source import check_model, find_local


def check_base(sections: Mapping[str, Any]) -> None:
    """Raise UserError with the key of an option that the base does not support.

    The length of texts, chat templates, the EOS token, the vocabulary, the numbers of layers and
    the ranks of low-rank products are checked. sections: of the config, by name. Nothing is
    fetched: files that are not on this machine are not checked.
    """
    base, moe, data, evaluation = (sections[n] for n in ("base", "moe", "data", "evaluation"))
    model, revision = base.model, base.revision
    folder = find_local(model, revision, ["config.json"])
    config = read_model_config(folder / "config.json") if folder else {}
    stated = [config.get(name) for name in ("hidden_size", "intermediate_size")]
    known = [size for size in stated if isinstance(size, int)]
    sizes = {f"a matrix of {model}": min(known)} if known else {}
    if moe.experts == "lora":
        check_rank("moe.rank", moe.rank, sizes)
    if rank := sections["sft"].lora_rank:
        check_rank("sft.lora_rank", rank, sizes)
    _check_layers(moe.upcycled_layers or [], model, config)
    tokens = window(config)
    if tokens is not None:
        _check_length("data.max_length", data.max_length, model, tokens, most=tokens)
        most = tokens - 1
        _check_length("evaluation.max_new_tokens", evaluation.max_new_tokens, model, tokens, most)
    folder = find_local(model, revision, TOKENIZER_PATTERNS)
    if folder:
        if data.template == CHAT:
            _check_chat("data.template", model, folder)
        if evaluation.base_prompt == CHAT:
            _check_chat("evaluation.base_prompt", model, folder)
        with errors_at("base.model"):
            check_vocabulary(folder)
            check_eos(folder)


def check_tuned(folder: Path, moe: MoeConfig | None) -> None:
    """Raise UserError unless a folder holds a model that can stand in place of a training.

    moe: the config's section, which the mixture must have been made with; None for a dense model.
    """
    if moe is None:
        check_model(folder)
        return
    check_model(folder, is_base=False)
    held = mixture_settings(read_model_config(folder / "config.json"))
    if held != (asked := mixture_settings(dict(moe))):
        other = json.dumps({key: held[key] for key in held if held[key] != asked.get(key)})
        raise UserError(
            f"{folder} is no mixture by section moe. Its config.json says {other}. Set this in "
            "section moe, or name another folder"
        )


def check_made_of(model: str, base: BaseConfig) -> None:
    """Raise UserError unless a tuned model may be one of the base, if that is on this machine.

    Only the values of its weights are not looked at.
    """
    folder = find_local(base.model, base.revision, ["config.json", *TOKENIZER_PATTERNS])
    if folder:
        from xft.modeling import other_trainers  # imports torch

        other_trainers.check_made_of(Path(model), folder)


def check_chat_template(model: Path, data: DataConfig) -> None:
    """Raise UserError if a file of rows has no good one, or if the chat template cannot write it.

    Of each file the first good row is tried. The turns of a conversation must be marked.
    """
    with errors_at("config"):
        template = ChatTemplate(load_tokenizer(model))
        first = data.model_copy(update={"limit": 1})
        for file in data.files:
            rows, bad = read_files([Path(file)], first, template.accept)
            if not rows:
                raise UserError(describe(bad))
            try:
                if isinstance(rows[0], Conversation):
                    template.encode_conversation(rows[0], data.max_length)
                else:
                    template.render(rows[0].instruction)
            except TemplateFault as fault:
                raise UserError(f"{fault}. {ANOTHER}") from None


def _check_length(key: str, value: int, model: str, window: int, most: int) -> None:
    if value > most:
        room = "" if most == window else ", and the prompt needs some of them"
        raise UserError(
            f"{key} = {value}: {model} takes texts of at most {window} tokens, by its "
            f"config.json{room}. Set at most {most}"
        )


def _check_layers(layers: list[int], model: str, config: dict) -> None:
    number = config.get("num_hidden_layers")
    beyond = [layer for layer in layers if isinstance(number, int) and layer >= number]
    if beyond:
        raise UserError(
            f"moe.upcycled_layers names {', '.join(map(str, beyond))}: {model} has layers 0 to "
            f"{number - 1}, by its config.json"
        )


def _check_chat(key: str, model: str, folder: Path) -> None:
    if not has_chat_template(folder):
        raise UserError(
            f"{key} = {CHAT}: {model} has no chat template: neither chat_template.jinja nor "
            "chat_template in tokenizer_config.json. Use the template magicoder, or a file"
        )
