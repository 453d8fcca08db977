"""Turns instruction rows into tokens, the examples of a training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import progress
from workflow_scripts.data.instructions import Row
from workflow_scripts.data.templates import ChatTemplate, TextTemplate, encode_literally

IGNORED = -100
BATCH_ROWS = 1000


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows, one after the other: prompt, response, EOS.

    input_ids: int32 [tokens]. offsets: int64 [rows + 1]; row i is input_ids[offsets[i] :
    offsets[i + 1]]. prompt_lengths: int32 [rows], tokens of the prompt, which have no loss.
    numbers: int64 [rows], the rows' numbers in their file. held_out: uint8 [rows], 1 for a row of
    the validation split.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    prompt_lengths: np.ndarray
    numbers: np.ndarray
    held_out: np.ndarray

    @property
    def training(self) -> "Examples":
        return Examples(self, np.flatnonzero(self.held_out == 0))

    @property
    def validation(self) -> "Examples":
        return Examples(self, np.flatnonzero(self.held_out))


class Examples(Sequence):
    """Some rows of `tokens` as a torch dataset. Each item is {"input_ids", "labels", "row"}.

    labels: IGNORED for the prompt, then the ids. row: the row's number in its file.
    """

    def __init__(self, tokens: Tokens, places: np.ndarray):
        self.tokens = tokens
        self.places = places

    def drawn(self, share: float, seed: int) -> "Examples":
        """A share of the rows, at least one, drawn without replacement. They keep their order."""
        count = max(round(share * len(self)), 1)
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return Examples(self.tokens, self.places[np.sort(chosen)])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        tokens, place = self.tokens, self.places[index]
        begin, end = tokens.offsets[place : place + 2]
        ids = tokens.input_ids[begin:end].tolist()
        prompt_length = int(tokens.prompt_lengths[place])
        labels = [IGNORED] * prompt_length + ids[prompt_length:]
        return {"input_ids": ids, "labels": labels, "row": int(tokens.numbers[place])}


def tokenize_rows(
    rows: list[Row], tokenizer, template: TextTemplate | ChatTemplate, max_length: int
) -> tuple[Tokens, int]:
    """The token ids of all rows (prompt, response, EOS), and how many rows were cut.

    The names of special tokens in a row are plain text. A row is cut at `max_length`. A row is left
    out if its prompt has that length or more. Raises UserError if no row is left.
    """
    ids, prompt_lengths, numbers, cut = [], [], [], 0
    with progress(desc="tokenize", total=len(rows), unit="row") as bar:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            prompts = template.encode(tokenizer, [row.instruction for row in batch])
            responses = encode_literally(tokenizer, [row.response for row in batch])
            for row, prompt, response in zip(batch, prompts, responses, strict=True):
                if len(prompt) < max_length:
                    whole = [*prompt, *response, tokenizer.eos_token_id]
                    cut += len(whole) > max_length
                    ids.append(np.array(whole[:max_length], np.int32))
                    prompt_lengths.append(len(prompt))
                    numbers.append(row.number)
            bar.update(len(batch))
    if not ids:
        raise UserError(f"no row has a response within max_length = {max_length} tokens")
    tokens = Tokens(
        input_ids=np.concatenate(ids),
        offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        prompt_lengths=np.array(prompt_lengths, np.int32),
        numbers=np.array(numbers, np.int64),
        held_out=np.zeros(len(ids), np.uint8),
    )
    return tokens, cut
