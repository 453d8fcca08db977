"""Low-rank experts: their start, their merge in fp64, and the same experts written out in full."""

import json
from pathlib import Path

import pytest
import torch
from chains import Chain
from low_rank import (
    ALPHA,
    EXPERTS,
    FLAGS,
    RANK,
    SINGLE,
    SIZES_OF_MIXTURE,
    Factors,
    chain_of,
    save_base,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from workflow_scripts import dense, diversity
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.conversions import mixing_artifact
from xft.conversions.merge import ALPHA as LOGITS
from xft.conversions.merged_tensors import merged_tensors
from xft.tools import export_full, verify

LAMBDA = 0.6
FORMS = ("llama", "llama-biases", "phi3", "starcoder2", "gpt_neox", "nemotron")


@pytest.fixture(scope="module", params=FORMS)
def chain(request, tmp_path_factory) -> Chain:
    """A tuned mixture with a base of each form of MLP. Read only."""
    folder = tmp_path_factory.mktemp(request.param)
    return chain_of(save_base(request.param, folder / "base"), folder / "chain")


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tiny_llama) -> Chain:
    folder = tmp_path_factory.mktemp("llama")
    return chain_of(Chain(folder, {"base": ["--model", tiny_llama]})["base"], folder)


def written_out(mixture: Path, folder: Path) -> Chain:
    """The artifacts of the same mixture with full experts."""
    export_full.main(["--moe", str(mixture), "--out", str(folder / "full")])
    return Chain(folder, moe_sft=folder / "full")


def learned(chain: Chain, out: Path, granularity: str = "layer") -> Path:
    """Coefficients that are not uniform, the same for each chain of one shape."""
    sources = mixing_artifact.open_sources(chain["moe_sft"], chain["ffn"])
    options = {"weighted_init": ["--lam", LAMBDA, "--granularity", granularity]}
    given = {name: chain[name] for name in ("moe_sft", "ffn")}
    start = Chain(out.parent, options, **given)["weighted_init"]
    start = mixing_artifact.open_mixing(start, sources)
    alpha = torch.randn(start.alpha.shape, generator=torch.Generator().manual_seed(3))
    mixing_artifact.write(out, "weighted_trained", {LOGITS: alpha}, start.config, sources)
    return out


def merged(chain: Chain, folder: Path, *words: object, granularity: str = "layer") -> dict:
    """The tensors of the merged model."""
    folder.mkdir()
    weighted = learned(chain, folder / "learned", granularity)
    given = ["--moe", chain["moe_sft"], "--ffn", chain["ffn"], "--weighted", weighted]
    dense.main([str(word) for word in [*given, *words, "--out", folder / "dense"]])
    return load_file(folder / "dense" / SINGLE)


# The start


def test_the_start_is_the_base_and_factors_as_peft_draws_them(chain):
    base, made = (load_file(chain[name] / SINGLE) for name in ("base", "moe"))
    for name, tensor in base.items():
        assert torch.equal(made.get(name, made.get(name.replace(".mlp.", ".mlp.dense."))), tensor)
    factors = [name for name in made if ".lora_" in name]
    assert len(factors) == 2 * sum(".mlp." in name and name.endswith("weight") for name in base)
    for name in factors:
        weight = base[name.replace(".experts.", ".").partition(".lora_")[0] + ".weight"]
        if name.endswith("lora_B"):
            assert made[name].shape == (EXPERTS, weight.shape[0], RANK)
            assert not made[name].any()
            continue
        assert made[name].shape == (EXPERTS, RANK, weight.shape[1])
        peft = torch.nn.init.kaiming_uniform_(torch.empty(2000, weight.shape[1]), a=5**0.5)
        assert made[name].abs().max() <= peft.abs().max() * 1.01
        assert made[name].std() == pytest.approx(peft.std().item(), rel=0.2)
        assert len({expert.flatten()[0].item() for expert in made[name]}) == EXPERTS


def test_the_seed_decides_the_factors(llama, tmp_path):
    made = load_file(llama["moe"] / SINGLE)
    for seed, same in ((42, True), (43, False)):
        moe = [*SIZES_OF_MIXTURE, *FLAGS, "--seed", seed]
        (tmp_path / str(seed)).mkdir()
        other = Chain(tmp_path / str(seed), {"moe": moe}, base=llama["base"])["moe"]
        other = load_file(other / SINGLE)
        for name in other:
            is_drawn = name.endswith(("lora_A", "router.input.weight", "router.output.weight"))
            assert torch.equal(other[name], made[name]) == (same or not is_drawn)


@pytest.mark.parametrize("flags", [[], ["--no-shared-expert"]], ids=["shared", "vanilla"])
def test_the_untrained_mixture_written_out_is_that_of_full_experts(chain, tmp_path, flags):
    moe = [*SIZES_OF_MIXTURE, *flags]
    made = []
    for name, form in (("full", []), ("low", FLAGS)):
        (tmp_path / name).mkdir()
        made.append(Chain(tmp_path / name, {"moe": [*moe, *form]}, base=chain["base"])["moe"])
    export_full.main(["--moe", str(made[1]), "--out", str(tmp_path / "out")])
    expected, ours = load_file(made[0] / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert expected.keys() == ours.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert read_manifest(manifest_path(tmp_path / "out")).parameters["experts"] == "full"


# The merge


@pytest.mark.parametrize("granularity", ["layer", "projection", "model"])
def test_the_merge_is_that_of_the_experts_written_out(chain, tmp_path, granularity):
    ours = merged(chain, tmp_path / "low", granularity=granularity)
    (tmp_path / "out").mkdir()
    full = written_out(chain["moe_sft"], tmp_path / "out")
    expected = merged(full, tmp_path / "full", granularity=granularity)
    assert ours.keys() == expected.keys() == load_file(chain["base"] / SINGLE).keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merge_is_its_equation(tmp_path, dtype):
    chain = chain_of(save_base("llama", tmp_path / "base", dtype), tmp_path / "chain")
    ours = merged(chain, tmp_path / "merged")
    factors = Factors.of(chain["moe_sft"])
    shares = load_file(tmp_path / "merged" / "learned" / SINGLE)[LOGITS].double().softmax(-1)
    for layer in range(2):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            name = f"model.layers.{layer}.mlp.{projection}.weight"
            experts = [factors.expert(name, number) for number in range(EXPERTS)]
            expected = LAMBDA * experts[0]
            for share, expert in zip(shares[layer, 0], experts[1:], strict=True):
                expected += (1 - LAMBDA) * share * expert
            assert ours[name].dtype == dtype
            rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(ours[name].double(), expected, rtol=rounding, atol=1e-6)


def test_an_untrained_mixture_merges_to_its_base(tmp_path, tiny_llama):
    (tmp_path / "chain").mkdir()
    moe = {"moe": [*SIZES_OF_MIXTURE, *FLAGS]}
    made = load_file(Chain(tmp_path / "chain", moe, base=tiny_llama)["dense"] / SINGLE)
    for name, tensor in load_file(tiny_llama / SINGLE).items():
        assert torch.equal(made[name], tensor)


def test_equal_experts_are_their_merged_model(tmp_path, tiny_llama):
    chain = chain_of(tiny_llama, tmp_path / "chain", same=True)
    (tmp_path / "out").mkdir()
    mixture = written_out(chain["moe_sft"], tmp_path / "out")["moe_sft"]
    ids = torch.randint(3, 290, (2, 20))
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
            for folder in (mixture, chain["dense"], tiny_llama)
        ]
    assert (logits[0] - logits[1]).abs().max() <= 1e-4
    assert (logits[0] - logits[2]).abs().max() > 0.1


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "task_arithmetic", "--scale", 1.5],
        ["--method", "model_stock"],
        ["--expert", 2],
    ],
    ids=["task_arithmetic", "model_stock", "expert"],
)
def test_other_merges_are_those_of_the_experts_written_out(llama, tmp_path, words):
    base = ["--base", llama["base"]]
    ours = merged(llama, tmp_path / "low", *words, *base)
    (tmp_path / "out").mkdir()
    full = written_out(llama["moe_sft"], tmp_path / "out")
    expected = merged(full, tmp_path / "full", *words, *base)
    plain = merged(llama, tmp_path / "plain")
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
        assert ".mlp." not in name or not torch.allclose(ours[name], plain[name], rtol=1e-3)


def test_the_diversity_is_that_of_the_experts_written_out(llama, tmp_path):
    (tmp_path / "out").mkdir()
    measured = []
    for name, chain in {
        "low": llama,
        "full": written_out(llama["moe_sft"], tmp_path / "out"),
    }.items():
        out = tmp_path / f"{name}.json"
        words = ["--base", llama["base"], "--ffn", chain["ffn"], "--out", out]
        diversity.main([str(word) for word in words])
        measured.append(json.loads(out.read_text()))
    for values in ("spread", "deviation", "shift"):
        assert measured[0][values] == pytest.approx(measured[1][values], rel=1e-4)
    assert measured[0]["experts"] == EXPERTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_squares_are_those_of_the_experts_in_fp64(tmp_path, dtype):
    """Also beside a base that the experts do not share."""
    chain = chain_of(save_base("llama", tmp_path / "base", dtype), tmp_path / "chain")
    mixture, factors = Checkpoint(chain["moe_sft"]), Factors.of(chain["moe_sft"])
    for tensor in merged_tensors(mixture, Checkpoint(chain["ffn"]), (1, 1, EXPERTS)):
        experts = torch.stack([factors.expert(tensor.name, i).flatten() for i in range(EXPERTS)])
        for base in (tensor.weight, tensor.weight + 0.1 * torch.randn(tensor.shape).to(dtype)):
            vectors = experts - base.double().flatten()
            products = vectors @ vectors.T
            torch.testing.assert_close(tensor.task_products(base), products, rtol=1e-5, atol=1e-5)
            apart = (experts - experts.mean(0)).square().sum(1).mean()
            moved = vectors.mean(0).square().sum()
            expected = torch.stack([apart, moved, base.double().square().sum()])
            torch.testing.assert_close(tensor.squares(base), expected, rtol=1e-4, atol=1e-6)


# What artifacts say, and refusals


def test_the_ffn_weights_are_the_factors_alone(llama):
    names = load_file(llama["ffn"] / SINGLE).keys()
    assert names == {n for n in load_file(llama["moe_sft"] / SINGLE) if ".lora_" in n}
    config = json.loads((llama["ffn"] / "config.json").read_text())
    assert config == {"experts": "lora", "rank": RANK, "lora_alpha": ALPHA}


def test_cards_and_verify_say_the_form_of_the_experts(llama, tmp_path, capsys):
    text = (llama["moe"] / "README.md").read_text()
    assert "a mixture of low-rank experts" in text
    assert "always, each the base's FFN plus products of rank 4\n" in text
    assert 'experts "lora", lora_alpha 12.0' in text
    text = (llama["dense"] / "README.md").read_text()
    assert "4 experts (3 for each token, each the base's FFN plus products of rank 4)" in text
    export_full.main(["--moe", str(llama["moe"]), "--out", str(tmp_path / "full")])
    text = (tmp_path / "full" / "README.md").read_text()
    assert "written out as full ones" in text and "lora_alpha" not in text
    verify.main([str(llama["moe"]), str(tmp_path / "full"), "--full"])
    shown = capsys.readouterr().out
    assert "experts lora, rank 4, lora_alpha 12.0, train_rest frozen" in shown
    assert "experts full, " in shown and shown.count("lora_alpha") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rank", "33"], r"moe.rank = 33: model.layers.0.mlp.gate_proj.weight of .* \[48, 32\]"),
        (["--init", "noise"], "init = noise: it changes the matrices of full experts"),
        (["--init", "drop"], "init = drop: it changes the matrices of full experts"),
    ],
)
def test_what_low_rank_experts_cannot_be_is_refused(tmp_path, tiny_llama, flags, message):
    with pytest.raises(UserError, match=message):
        _ = Chain(tmp_path, {"moe": ["--experts", "lora", *flags]}, base=tiny_llama)["moe"]
    assert list(tmp_path.iterdir()) == []


def test_vanilla_upcycling_has_nothing_to_merge(tmp_path, tiny_llama):
    moe = [*SIZES_OF_MIXTURE, *FLAGS, "--no-shared-expert"]
    chain = Chain(tmp_path, {"moe": moe}, base=tiny_llama)
    with pytest.raises(UserError, match="layer 0 has no shared expert"):
        _ = chain["ffn"]


def test_full_experts_are_written_out_already(tmp_path, tiny_llama):
    upcycled = Chain(tmp_path, base=tiny_llama)["moe"]
    with pytest.raises(UserError, match="its experts are full already"):
        export_full.main(["--moe", str(upcycled), "--out", str(tmp_path / "out")])
