"""Makes batches of rows: their order, their padding or packing, and the attention in packed ones.

A packed batch is one sequence of rows without padding. A row begins where the position ids start
again, and a token attends only to tokens of its row. transformers' "sdpa" computes all pairs of a
packed batch's tokens under a mask. This module never computes pairs from different rows.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import torch
import transformers
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import is_flash_attn_2_available

from xft.config.training import TrainingConfig
from xft.data.tokenized_rows import IGNORED

FLASH = "flash_attention_2"
PACKED = "sdpa_by_row"
RowMasks = list[tuple[int, Tensor | None]]
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
    place = begin
    for batch in batches:
        new_rows = max(rows - place, 0)
        if new_rows < len(batch["row"]):
            _ignore_rows_from(new_rows, batch)
        yield batch
        place += step


def _ignore_rows_from(number: int, batch: dict) -> None:
    """Remove the labels of a batch's rows from this number on."""
    if "position_ids" in batch:  # packed
        starts = (batch["position_ids"][0] == 0).nonzero()
        batch["labels"][:, starts[number, 0] :] = IGNORED
    else:
        batch["labels"][number:] = IGNORED


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


def use_packed_attention(model: PreTrainedModel, half_precision: bool) -> str:
    """Let a model attend within the rows of packed batches. Returns its attention's name.

    half_precision: whether the model computes in bf16. FLASH needs that, and the rows' bounds in
    the batch. A model with attention that "sdpa" does not support (such as a cap on its logits)
    keeps transformers' own function and mask.
    """
    can_flash = torch.cuda.is_available() and half_precision and is_flash_attn_2_available()
    if can_flash and model._supports_flash_attn:
        model.set_attn_implementation(FLASH)
    elif model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(PACKED)
    return model.config._attn_implementation


def row_masks(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> RowMasks | Tensor | None:
    """The length and mask of each row. A causal mask is None; others are bool [1, 1, L, L].

    This is a function of transformers' mask interface. mask_function(batch, head, query, key) takes
    index tensors and returns which pairs count. local_size is the window of sliding attention.
    Other batches (several sequences, padding, a cache) get the mask of "sdpa".
    """
    if batch_size > 1 or q_length != kv_length or attention_mask is not None:
        return sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            mask_function=mask_function,
            attention_mask=attention_mask,
            local_size=local_size,
            device=device,
            **options,
        )
    index = torch.arange(q_length, device=device)
    zero = torch.zeros((), dtype=torch.long, device=device)
    goes_on = mask_function(zero, zero, index[1:], index[:-1])
    later_starts = (torch.nonzero(~goes_on).flatten() + 1).tolist()
    bounds = [0, *later_starts, q_length]
    masks = []
    for start, end in pairwise(bounds):
        row = index[start:end]
        mask = None
        if local_size is not None and local_size < len(row):
            mask = mask_function(zero, zero, row[:, None], row)[None, None]
        masks.append((len(row), mask))
    return masks


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: RowMasks | Tensor | None,
    **options,
) -> tuple[Tensor, None]:
    """Attention of each row [1, heads, T, size] to itself, [1, T, heads, size] by "sdpa"."""
    if not isinstance(attention_mask, list):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = [length for length, _ in attention_mask]
    masks = [mask for _, mask in attention_mask]
    queries = query.split(lengths, dim=2)
    keys = key.split(lengths, dim=2)
    values = value.split(lengths, dim=2)
    outputs = []
    for row in zip(queries, keys, values, masks, strict=True):
        output, _ = sdpa_attention_forward(module, *row, **options)
        outputs.append(output)
    return torch.cat(outputs, dim=1), None


transformers.AttentionInterface.register(PACKED, packed_attention)
transformers.AttentionMaskInterface.register(PACKED, row_masks)
