"""How rows become batches: in which order, and padded to one length or packed into one sequence."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening
from transformers.trainer_pt_utils import get_length_grouped_indices

from workflow_scripts.data.instructions import IGNORED


class RowCollator:
    """Makes a batch of examples; `row` [rows] says which rows it holds."""

    def __init__(self, collate: Callable[[list[dict]], dict]):
        self.collate = collate

    def __call__(self, examples: list[dict]) -> dict:
        batch = self.collate(
            [{key: example[key] for key in ("input_ids", "labels")} for example in examples]
        )
        return batch | {"row": torch.tensor([example["row"] for example in examples])}


def padded(tokenizer) -> RowCollator:
    """Batches [rows, longest row]."""
    return RowCollator(DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED))


def packed(row_bounds: bool) -> RowCollator:
    """Batches [1, tokens] of rows end to end, with positions that begin anew in each.

    No row's first token is trained on. row_bounds: with the rows' bounds, for flash attention.
    """
    flatten = DataCollatorWithFlattening(
        separator_id=IGNORED, return_flash_attn_kwargs=row_bounds, return_tensors="pt"
    )
    return RowCollator(lambda rows: flatten(rows) | {"use_cache": False})


class EpochSampler(Sampler):
    """Orders examples anew in each epoch, by the seed and the number of the epoch alone.

    So a training that goes on from a checkpoint has the order of one left alone, in any epoch and
    any number of processes. epoch: gives the number of the epoch that begins.
    """

    def __init__(self, examples: list[dict], seed: int, epoch: Callable[[], int]):
        self.examples = examples
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(torch.Generator().manual_seed(self.seed + self.epoch())))

    def order(self, generator: torch.Generator) -> list[int]:
        return torch.randperm(len(self), generator=generator).tolist()


class LengthSampler(EpochSampler):
    """The Trainer's order by length: examples that are near each other are about equally long.

    batch_size: of one process in an optimiser step; 50 of these are sorted at a time.
    """

    def __init__(self, examples, seed, epoch, batch_size: int):
        super().__init__(examples, seed, epoch)
        self.batch_size = batch_size
        self.lengths = [len(example["input_ids"]) for example in examples]

    def order(self, generator: torch.Generator) -> list[int]:
        return get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
