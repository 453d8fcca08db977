"""Reads texts without instructions, and cuts them into examples. Every token counts."""

import io
from itertools import count
from pathlib import Path

import numpy as np

from xft.common.errors import UserError, naming
from xft.common.files import read_text
from xft.config.training import ONE_TEXT
from xft.data.examples import Tokens, batches
from xft.data.faults import fault_of_object, fault_of_text
from xft.data.instructions import json_values
from xft.data.templates import encode_literally

COLUMN = "text"


def read_texts(path: Path) -> list[str]:
    """The texts of a file: one if it is a .txt file, else those of JSONL lines {"text": ...}.

    Raises UserError if the file is missing, is not UTF-8, holds no text or too much, or if one of
    its lines is wrong.
    """
    with naming("text"):
        if path.name.endswith(ONE_TEXT):
            text = io.StringIO(read_text(path), newline=None).read()  # with one kind of line end
            values = [(str(path), {COLUMN: text})]
        else:
            values = [(place, value) for _, place, value in json_values(path)]
    if not values:
        raise UserError(f"text = {path}: the file holds no texts")
    for place, value in values:
        if fault := _fault(value):
            raise UserError(f'text: {place}: {fault}. Each line must be {{"text": ...}}')
    return [value[COLUMN] for _, value in values]


def window_texts(texts: list[str], tokenizer, max_length: int) -> Tokens:
    """The tokens of texts, each cut into windows of at most max_length tokens.

    A text has BOS in front, if the tokenizer has it, and EOS at its end. No window holds parts of
    two texts. The first token of a window counts as its prompt, because nothing predicts it. A
    window without another token is left out. `numbers` are those of the texts, from 1.
    """
    front = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    windows, numbers = [], count(1)
    for batch in batches(texts, len, "text"):
        for ids, number in zip(encode_literally(tokenizer, batch), numbers, strict=False):
            whole = np.array([*front, *ids, tokenizer.eos_token_id])
            for window in np.split(whole, range(max_length, len(whole), max_length)):
                if len(window) > 1:
                    windows.append((number, window, np.arange(len(window)) > 0))
    return Tokens.join(windows)


def _fault(value: object) -> str | None:
    if fault := fault_of_object(value):
        return fault
    if COLUMN not in value:
        return f"no key {COLUMN!r}"
    fault = fault_of_text(value[COLUMN])
    return f"{COLUMN!r} {fault}" if fault else None
