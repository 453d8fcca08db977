"""LoRA experts: their start, and that all is as with the same experts written out in full."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from backbones import save_base
from chains import Chain
from damage import change_json, change_tensors
from mixtures import learned, mixing_of
from safetensors.torch import load_file

from xft.checkpoints.layout import moe_layers
from xft.checkpoints.reader import Checkpoint
from xft.conversions.expert_diversity import diversity
from xft.conversions.merged_tensors import merged_tensors

pytestmark = pytest.mark.numeric

RANK, ALPHA, EXPERTS = 4, 12.0, 4
FLAGS = ["--experts", "lora", "--rank", RANK, "--lora-alpha", ALPHA]
SIZES_OF_MIXTURE = ["--num-experts", EXPERTS, "--num-experts-per-tok", 3]
SINGLE = "model.safetensors"
FORMS = ("llama-biases", "phi3", "starcoder2")


def chain_of(base: Path, folder: Path) -> Chain:
    """The artifacts of a mixture with random factors and routers, which has no manifest."""
    folder.mkdir(exist_ok=True)
    upcycled = Chain(folder, {"moe": [*SIZES_OF_MIXTURE, *FLAGS]}, base=base)["moe"]

    def tune(tensors: dict) -> dict:
        learned = [name for name in tensors if ".lora_" in name or ".router." in name]
        return tensors | {n: 0.3 * torch.randn_like(tensors[n]) for n in learned}

    tuned = change_tensors(shutil.copytree(upcycled, folder / "tuned"), tune)
    return Chain(folder, base=base, moe=upcycled, moe_sft=tuned)


def equation(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """W + s B_i A_i of all experts in fp64. name: of a weight of the dense model's MLP."""
    prefix, _, rest = name.partition(".mlp.")
    place = f"{prefix}.mlp.experts.{rest.removesuffix('.weight')}.lora_"
    a, b = (tensors[f"{place}{letter}"].double() for letter in "AB")
    return tensors[f"{prefix}.mlp.dense.{rest}"].double() + ALPHA / RANK * b @ a


@pytest.fixture(scope="module", params=FORMS)
def chain(request, tmp_path_factory) -> Chain:
    """A tuned mixture with a base of each form of MLP. Read only."""
    folder = tmp_path_factory.mktemp(request.param)
    return chain_of(save_base(request.param, folder / "base"), folder / "chain")


@pytest.fixture(scope="module")
def full(chain) -> Chain:
    """The artifacts of the same mixture with full experts. Read only."""
    folder = chain.folder / "written_out"
    moe = shutil.copytree(chain["moe_sft"], folder / "full")
    change_json(moe / "config.json", experts="full")
    return Chain(folder, moe_sft=change_tensors(moe, written_out), base=chain["base"])


def written_out(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a mixture with LoRA experts, with the same experts as full ones."""
    inside = (".mlp.dense.", ".mlp.experts.")
    made = {n: t for n, t in tensors.items() if not any(part in n for part in inside)}
    for layer in moe_layers(tensors):
        for part in layer.parts:
            for name, projections in layer.fused(part):
                own = [_experts(tensors, layer, projection, part) for projection in projections]
                made[name] = torch.cat([experts[1:] for experts in own], dim=1)
                shared = {layer.shared(p, part): e for p, e in zip(projections, own, strict=True)}
                made |= {name: experts[0].clone() for name, experts in shared.items()}
    return made


def _experts(tensors, layer, projection: str, part: str) -> torch.Tensor:
    """A tensor of all experts, the shared one first."""
    if part == "bias":
        return tensors[layer.frozen(projection, part)].expand(EXPERTS, -1)
    return equation(tensors, layer.dense(projection)).float()


def drawn(start) -> torch.Tensor:
    """Logits that are the same for each chain of one shape."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(start.alpha.shape, generator=generator)


def gradients(chain: Chain, ids) -> torch.Tensor:
    """Those of all mixing logits."""
    mixing = mixing_of(chain, dtype=torch.float64)
    mixing.model(ids, labels=ids).loss.backward()
    mixing.take_gradients()
    return torch.stack([p.grad for p in mixing.logits.alpha])


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


# The same experts written out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_and_products_are_those_of_the_equation(tmp_path, dtype):
    """Also beside a base of other values."""
    chain = chain_of(save_base("llama", tmp_path / "base", dtype), tmp_path / "chain")
    low = load_file(chain["moe_sft"] / SINGLE)
    mixture = Checkpoint(chain["moe_sft"])
    for tensor in merged_tensors(mixture, Checkpoint(chain["ffn"]), (1, 1, EXPERTS)):
        experts = equation(low, tensor.name)
        shares = torch.rand(EXPERTS).softmax(0)
        mixed = torch.einsum("i,ioh->oh", shares.double(), experts)
        torch.testing.assert_close(tensor.merged(shares).double(), mixed, rtol=1e-5, atol=1e-5)
        experts = experts.flatten(1)
        for base in (tensor.weight, tensor.weight + 0.1 * torch.randn(tensor.shape).to(dtype)):
            vectors = experts - base.double().flatten()
            products = vectors @ vectors.T
            torch.testing.assert_close(tensor.task_products(base), products, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("granularity", ["layer", "projection", "model"])
def test_mixing_and_merging_give_the_same(chain, full, tmp_path, granularity):
    flags = ["--granularity", granularity]
    pairs = ("low", chain), ("full", full)
    one, other = (learned(own, tmp_path / name, drawn, *flags) for name, own in pairs)
    ids = torch.randint(3, 97, (2, 20))
    for ours, expected in zip(gradients(one, ids), gradients(other, ids), strict=True):
        # those of experts in fp32, whose common part has no effect but in rounding
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    ours, expected = (load_file(made["dense"] / SINGLE) for made in (one, other))
    assert ours.keys() == expected.keys() == load_file(chain["base"] / SINGLE).keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=2e-6)


def test_they_are_as_diverse(chain, full):
    base = Checkpoint(chain["base"])
    found, expected = (diversity(Checkpoint(own["ffn"]), base) for own in (chain, full))
    assert found.pop("layers") == [pytest.approx(row, rel=1e-5) for row in expected.pop("layers")]
    assert found == pytest.approx(expected, rel=1e-5)


# What artifacts say, and refusals


def test_the_ffn_weights_are_the_factors_alone(chain):
    names = Checkpoint(chain["ffn"]).names
    assert {*names} == {n for n in load_file(chain["moe_sft"] / SINGLE) if ".lora_" in n}
    config = json.loads((chain["ffn"] / "config.json").read_text())
    assert config == {"experts": "lora", "rank": RANK, "lora_alpha": ALPHA}
