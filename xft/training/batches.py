"""Makes batches of rows: their order, and their padding or packing."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

import torch
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, PreTrainedModel
from transformers.trainer_pt_utils import LengthGroupedSampler

from xft.config.training import TrainingConfig
from xft.data.tokenized_rows import IGNORED
from xft.modeling.packed_attention import FLASH, use_packed_attention

RowCollator = Callable[[list[dict]], dict]  # makes a batch of examples


def with_numbers(collate: RowCollator, examples: list[dict]) -> dict:
    """A batch of examples. Its key `row` [rows] holds the numbers of the rows."""
    rows = [{key: example[key] for key in ("input_ids", "labels")} for example in examples]
    return collate(rows) | {"row": torch.tensor([example["row"] for example in examples])}


def padded(tokenizer) -> RowCollator:
    """Makes batches [rows, longest row]. A tokenizer without a padding token gets the EOS token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return partial(with_numbers, DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED))


def packed(row_bounds: bool) -> RowCollator:
    """Makes batches [1, tokens] of rows end to end. The positions start again from 0 in each row.

    The first token of a row is not trained on. row_bounds: add the rows' bounds, for flash
    attention.
    """
    flatten = DataCollatorWithFlattening(
        separator_id=IGNORED, return_flash_attn_kwargs=row_bounds, return_tensors="pt"
    )
    return partial(with_numbers, lambda rows: flatten(rows) | {"use_cache": False})


def make_collator(options: TrainingConfig, tokenizer, model: PreTrainedModel) -> RowCollator:
    """Makes the batches of a training. If they are packed, the model attends within their rows."""
    if options.batching != "packed":
        return padded(tokenizer)
    attention = use_packed_attention(model, options.precision != "fp32")
    return packed(row_bounds=attention == FLASH)


def without_repeats(batches: Iterable[dict], rows: int, begin: int, step: int) -> Iterator[dict]:
    """The batches, without the labels of rows that come a second time in an epoch of `rows` rows.

    If the rows do not fill the last batch of each process, accelerate adds rows of the epoch's
    beginning.

    begin: the place in the epoch of the first batch's first row.
    step: from there to that of the next batch.
    """
    for place, batch in zip(count(begin, step), batches, strict=False):
        new, labels = max(rows - place, 0), batch["labels"]
        if new < len(batch["row"]):
            if "position_ids" in batch:  # packed
                labels[:, (batch["position_ids"][0] == 0).nonzero()[new, 0] :] = IGNORED
            else:
                labels[new:] = IGNORED
        yield batch


class LengthSampler(LengthGroupedSampler):
    """The Trainer's order by length, a new one in each epoch, from the seed and the epoch's number.

    So a training that continues from a checkpoint has the same order as one without a break.

    batch_size: rows of one process in an optimiser step; 50 times as many are sorted at a time.
    lengths: of the rows, in tokens.
    epoch: gives the number of the epoch that begins.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int, epoch: Callable[[], int]):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch())
        return super().__iter__()
