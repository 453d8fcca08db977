"""Turns instruction rows into tokens, the examples of a training."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from xft.common.errors import UserError
from xft.common.progress import progress
from xft.data.conversations import Conversation
from xft.data.disk_array import DiskArray
from xft.data.instructions import AnyRow
from xft.data.templates import Encoded, Template, encode_literally

IGNORED = -100
BATCH_ROWS = 1000
BATCH_CHARACTERS = 1_000_000  # a tokenizer takes 300 bytes of memory for each


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows, one after the other: prompt, response, EOS; or the turns of a conversation.

    input_ids: int32 [tokens].
    trained: uint8 [tokens], 1 for the tokens of responses, which have a loss.
    offsets: int64 [rows + 1]; row i is input_ids[offsets[i] : offsets[i + 1]].
    numbers: int64 [rows], the rows' numbers in their file.
    held_out: uint8 [rows], 1 for a row of the validation split.
    """

    input_ids: np.ndarray | DiskArray
    trained: np.ndarray | DiskArray
    offsets: np.ndarray
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

    labels: the ids of responses, and IGNORED for all others.
    row: the row's number in its file.
    """

    def __init__(self, tokens: Tokens, places: np.ndarray):
        self.tokens = tokens
        self.places = places

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return np.diff(self.tokens.offsets)[self.places].tolist()

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
        ids = tokens.input_ids[begin:end]
        labels = np.where(tokens.trained[begin:end], ids, IGNORED)
        row = int(tokens.numbers[place])
        return {"input_ids": ids.tolist(), "labels": labels.tolist(), "row": row}


def tokenize_rows(
    rows: Sequence[AnyRow], tokenizer, template: Template, max_length: int
) -> tuple[Tokens, int]:
    """The tokens of all rows, in temporary files, and how many rows were cut.

    The names of special tokens in a row are plain text. A row is cut at `max_length`. A row is left
    out if the prompt of its first response has that length or more. None is held out. Raises
    UserError if no row is left.
    """
    input_ids, trained_ids = DiskArray(np.int32), DiskArray(np.uint8)
    numbers, cut, window = array("q"), 0, slice(max_length)
    for batch in _batches(rows):
        encoded = _encode(batch, tokenizer, template, max_length)
        for row, (ids, responses) in zip(batch, encoded, strict=True):
            trained = np.zeros(len(ids), np.uint8)
            for begin, end in responses:
                trained[begin:end] = 1
            if trained[window].any():
                cut += len(ids) > max_length
                input_ids.append(np.array(ids[window], np.int32))
                trained_ids.append(trained[window])
                numbers.append(row.number)
    if not numbers:
        raise UserError(f"no row has a response within max_length = {max_length} tokens")
    offsets, held_out = np.array(input_ids.offsets), np.zeros(len(numbers), np.uint8)
    return Tokens(input_ids, trained_ids, offsets, np.array(numbers), held_out), cut


def _batches(rows: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
    """The rows in batches that fit into memory while they are tokenised, with a progress bar."""
    batch, characters = [], 0
    for row in progress(rows, desc="tokenize", unit="row"):
        length = len(row.text)
        characters += length
        if batch and (len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], length
        batch.append(row)
    if batch:
        yield batch


def _encode(
    rows: list[AnyRow], tokenizer, template: Template, max_length: int
) -> Iterator[Encoded]:
    """Each row as tokens: prompt, response, EOS; or the turns of a conversation.

    Of a conversation, what follows the response that exceeds `max_length` may be missing.
    """
    for kind, group in groupby(rows, type):
        alike = list(group)
        if kind is Conversation:
            yield from (template.encode_conversation(row, max_length) for row in alike)
            continue
        prompts = template.encode(tokenizer, [row.instruction for row in alike])
        responses = encode_literally(tokenizer, [row.response for row in alike])
        for prompt, response in zip(prompts, responses, strict=True):
            ids = [*prompt, *response, tokenizer.eos_token_id]
            yield ids, [(len(prompt), len(ids))]
