"""Packed batches and batches by length: the loss and the gradients of padded ones."""

import re

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from backbones import FORMS
from chains import Chain
from mixtures import random_mixture
from torch.utils.data import BatchSampler
from trainings import additions, learn, random_rows, write_rows
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from xft.training.batches import PACKED, LengthSampler, packed, padded, without_repeats

pytestmark = pytest.mark.numeric

LENGTHS = (24, 1, 9, 17, 2)


def batch(collate) -> dict:
    """Examples with random tokens. The loss counts all tokens."""
    rows = random_rows(LENGTHS, prompt=0, kinds=97)
    return {key: value for key, value in collate(rows).items() if key != "row"}


def test_what_is_not_packed_is_computed_as_ever(tokenizer):
    model = random_mixture("mistral").eval()
    inputs = batch(padded(tokenizer))
    prompt = {"input_ids": inputs["input_ids"][:1, :12], "max_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        expected, continued = model(**inputs), model.generate(**prompt)
        model.set_attn_implementation(PACKED)
        assert torch.equal(model(**inputs).logits, expected.logits)
        assert torch.equal(model.generate(**prompt), continued)


@pytest.mark.parametrize("backbone", FORMS)
def test_flash_attention_would_get_the_bounds_of_the_rows(backbone, monkeypatch):
    """It needs a GPU. It reads the bounds or the positions: some backbones hand on only one."""
    inputs = batch(packed(row_bounds=True))
    seen = []

    def attention(module, query, key, value, mask, softcap=None, **options):
        bounds, positions = options.get("cu_seq_lens_q"), options.get("position_ids")
        assert bounds is not None or torch.equal(positions, inputs["position_ids"])
        if bounds is not None:
            assert bounds.tolist() == [0, 24, 25, 34, 51, 53]
            assert options["max_length_q"] == 24
        seen.append(module)
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "spy", attention)
    model = random_mixture(backbone)
    model.set_attn_implementation("spy")
    model(**inputs)
    assert len(seen) == 2


def test_the_order_by_length_is_of_the_seed_and_the_epoch():
    lengths = [1 + 37 * n % 101 for n in range(200)]

    def order(seed, epoch):
        torch.rand(1)  # what else is drawn does not matter
        return list(LengthSampler(lengths, 4, seed, lambda: epoch))

    orders = [order(0, 0), order(0, 1), order(7, 0)]
    assert len(set(map(tuple, orders))) == 3
    for indices in orders:
        assert sorted(indices) == list(range(200))
        batches = [[lengths[i] for i in indices[n : n + 4]] for n in range(0, 200, 4)]
        assert sum(4 * max(batch) for batch in batches) < 1.15 * sum(lengths)
    assert order(0, 1) == orders[1]


def test_a_step_learns_the_same_from_packed_batches(tiny_llama, tmp_path, capsys):
    """Even with the routing's noise, which the tokens get in the same order."""
    rows = write_rows(tmp_path, additions(24, 4))
    words = Chain(tmp_path, base=tiny_llama, data=rows).words("moe_sft")
    words += ["--max-length", "300", "--max-steps", "6", "--per-device-train-batch-size", "2"]
    ways = "padded", "packed", "by_length"
    learned = (learn("moe_sft", tmp_path / way, *words, "--batching", way) for way in ways)
    losses = [[line["loss"] for line in lines] for lines in learned]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] != pytest.approx(losses[0], rel=1e-5)
    end = r"step 6, loss (\S+), \d+ tokens in \d+ s, \d+ a second, ([\d.]+)% of the batches is pad"
    last, padding = zip(*re.findall(end, capsys.readouterr().err), strict=True)
    assert list(last) == [f"{found[-1]:.4f}" for found in losses]
    padded, packed, by_length = map(float, padding)
    assert packed == 0 < by_length < padded


@pytest.mark.parametrize("rows", [1, 5, 8, 13])
def test_each_row_counts_once_in_an_epoch_of_several_processes(rows, tokenizer):
    """accelerate gives rows twice if they do not fill the last batch of each process."""
    examples, size, world = random_rows([5 + n % 3 for n in range(rows)]), 2, 3
    for collate in (padded(tokenizer), packed(row_bounds=False)):
        counted = []
        for rank in range(world):
            batches = BatchSamplerShard(BatchSampler(range(rows), size, False), world, rank)
            given = (collate([examples[i] for i in numbers]) for numbers in batches)
            for own in without_repeats(given, rows, rank * size, world * size):
                counted += own["labels"][own["labels"] != -100].tolist()
        expected = [label for row in examples for label in row["labels"] if label != -100]
        assert sorted(counted) == sorted(expected)
