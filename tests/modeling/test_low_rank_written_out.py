"""The model of low-rank experts computes what the experts compute when they are written out."""

import pytest
import torch
from low_rank import chain_of, save_base
from transformers import AutoModelForCausalLM

from xft.tools import export_full


@pytest.mark.parametrize(
    "backbone", ["llama", "llama-biases", "phi3", "starcoder2", "gpt_neox", "nemotron"]
)
def test_a_mixture_is_the_same_with_its_experts_written_out(tmp_path, backbone):
    chain = chain_of(save_base(backbone, tmp_path / "base"), tmp_path / "chain")
    export_full.main(["--moe", str(chain["moe_sft"]), "--out", str(tmp_path / "full")])
    ids = torch.randint(3, 97, (2, 20))
    with torch.no_grad():
        low, full, start, base = (
            AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
            for folder in (chain["moe_sft"], tmp_path / "full", chain["moe"], chain["base"])
        )
    assert (low - full).abs().max() <= 1e-4
    assert (start - base).abs().max() <= 1e-4
    assert (low - base).abs().max() > 0.1


def test_equal_experts_are_their_merged_model(tmp_path):
    chain = chain_of(save_base("llama", tmp_path / "base"), tmp_path / "chain", same=True)
    ids = torch.randint(3, 97, (2, 20))
    with torch.no_grad():
        mixture, merged = (
            AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
            for folder in (chain["moe_sft"], chain["dense"])
        )
    assert (mixture - merged).abs().max() <= 1e-4
