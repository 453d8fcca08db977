"""Attention in a packed batch, one row at a time: a token attends only to tokens of its row.

A packed batch is one sequence of rows without padding. A row begins where the position ids start
again. transformers' "sdpa" computes all pairs of a packed batch's tokens under a mask. This module
never computes pairs from different rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

FLASH = "flash_attention_2"
PACKED = "sdpa_by_row"
RowMasks = list[tuple[int, Tensor | None]]


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
        shape = {"batch_size": batch_size, "q_length": q_length, "kv_length": kv_length}
        options |= {"mask_function": mask_function, "attention_mask": attention_mask}
        return sdpa_mask(**shape, **options, local_size=local_size, device=device)
    index = torch.arange(q_length, device=device)
    zero = torch.zeros((), dtype=torch.long, device=device)
    goes_on = mask_function(zero, zero, index[1:], index[:-1])
    starts = [0, *(torch.nonzero(~goes_on).flatten() + 1).tolist()]
    masks = []
    for start, end in zip(starts, [*starts[1:], q_length], strict=True):
        mask, row = None, index[start:end]
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
    lengths, masks = zip(*attention_mask, strict=True)
    rows = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        sdpa_attention_forward(module, *row, mask, **options)[0]
        for row, mask in zip(rows, masks, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, row_masks)


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
