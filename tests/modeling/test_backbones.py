"""Backbones all the way: upcycled, trained, generating, mixed, merged, reloaded."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, FORMS, save_base
from chains import SIZES, Chain
from mixtures import mixing_of, tokens
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import xft

pytestmark = pytest.mark.numeric

# The flags of the experts, and the noise that stands for their tuning.
EXPERTS = {"full": (SIZES, 0.1), "lora": ([*SIZES, "--experts", "lora", "--rank", "4"], 0.3)}
FULL = {"num_experts": 4, "num_experts_per_tok": 3}
OPTIONS = {"full": FULL, "lora": FULL | {"experts": "lora", "rank": 4}}  # the same, as keys


@dataclass(frozen=True)
class Case:
    """A random dense model, two mixtures made from it, and the folder of all. Read only.

    trained: with experts that differ. untrained: the artifacts of the other mixture.
    """

    dense: PreTrainedModel
    upcycled: PreTrainedModel
    trained: PreTrainedModel
    untrained: Chain
    folder: Path


def make_case(backbone: str, kind: str, folder: Path) -> Case:
    torch.manual_seed(0)
    base = save_base(backbone, folder / "base")
    if backbone == "llama":
        write_old_keys(base / "config.json")
    flags, noise = EXPERTS[kind]
    mixing = {"weighted_init": ["--lam", "0.6"]}
    untrained = Chain(folder, mixing | {"moe": flags}, base=base)
    upcycled = AutoModelForCausalLM.from_pretrained(untrained["moe"]).eval()
    trained = copy.deepcopy(upcycled)
    for block in trained.moe_blocks:
        for weight in block.experts.parameters():
            weight.data += noise * torch.randn_like(weight)
    trained.save_pretrained(folder / "trained")
    dense = AutoModelForCausalLM.from_pretrained(base).eval()
    return Case(dense, upcycled, trained, untrained, folder)


def write_old_keys(file: Path) -> None:
    """State the RoPE as transformers 4 did."""
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    file.write_text(json.dumps(config))


MARKS = {name: [] if name in FORMS else [pytest.mark.ci] for name in BACKBONES}
CASES = [pytest.param(f"{name} {kind}", marks=MARKS[name]) for name in MARKS for kind in EXPERTS]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    return make_case(*request.param.split(), tmp_path_factory.mktemp("case"))


@torch.no_grad()
def distance(model, other) -> float:
    return (model(tokens()).logits - other(tokens()).logits).abs().max().item()


def test_step_0(case):
    """The mixture computes what the dense model computes, in both modes and for every router."""
    assert distance(case.upcycled, case.dense) <= 1e-5
    other = copy.deepcopy(case.upcycled).train()
    for block in other.moe_blocks:
        for weight in block.router.parameters():
            torch.nn.init.normal_(weight)
    assert distance(other, case.dense) <= 1e-5
    assert distance(case.trained, case.dense) > 1e-3


def test_merge(case, tmp_path):
    """Equal experts give the base. Others give the mixing model, in the base's form."""
    base = case.folder / "base"
    before, equal = (load_file(f / "model.safetensors") for f in (base, case.untrained["dense"]))
    assert equal.keys() == before.keys()
    for name, tensor in before.items():
        rounding = 0 if case.trained.config.experts == "lora" else 1e-6
        torch.testing.assert_close(equal[name], tensor, atol=rounding, rtol=rounding)

    chain = Chain(tmp_path, {"weighted_init": ["--lam", "0.6"]}, moe_sft=case.folder / "trained")
    merged = AutoModelForCausalLM.from_pretrained(chain["dense"])
    assert type(merged) is type(case.dense)
    assert distance(merged, mixing_of(chain).model.eval()) <= 1e-5
    assert distance(merged, case.dense) > 1e-3
    ours, bases = ((f / "config.json").read_text() for f in (chain["dense"], base))
    assert json.loads(ours) == json.loads(bases)
    made = load_file(chain["dense"] / "model.safetensors")
    assert {n: t.shape for n, t in made.items()} == {n: t.shape for n, t in before.items()}


def test_in_memory(case, tmp_path):
    """A loaded model gives the same bytes as its files, and stays as it was."""
    before = copy.deepcopy(case.dense.state_dict())
    mixture = xft.upcycle(case.dense, **OPTIONS[case.trained.config.experts])
    assert_same_files(mixture, case.untrained["moe"], tmp_path / "mixture")
    config = json.loads((case.untrained["moe"] / "config.json").read_text())
    assert config == case.upcycled.config.to_diff_dict()  # which saving it writes
    assert config.keys() == mixture.config.to_diff_dict().keys()
    assert distance(mixture, case.dense) <= 1e-5

    merged = xft.merge(case.trained, lam=0.6)
    assert type(merged) is type(case.dense)
    chain = Chain(tmp_path, {"weighted_init": ["--lam", "0.6"]}, moe_sft=case.folder / "trained")
    assert_same_files(merged, chain["dense"], tmp_path / "merged")
    mixing, other = (xft.Mixing(case.trained, lam=lam).model for lam in (0.6, 0.3))
    other.load_state_dict(mixing.state_dict())
    assert_same_files(copy.deepcopy(other), chain["dense"], tmp_path / "mixing")
    torch.nn.init.zeros_(next(mixture.parameters()))
    assert all(case.dense.state_dict()[name].equal(value) for name, value in before.items())


def assert_same_files(model, expected: Path, folder: Path) -> None:
    model.save_pretrained(folder)
    own, others = (load_file(path / "model.safetensors") for path in (folder, expected))
    torch.testing.assert_close(own, others, rtol=0, atol=0)


@torch.no_grad()
def assert_greedy(model, prompts, generated):
    """Each generated token is, up to rounding, the likeliest by the model without cache."""
    logits = model(torch.cat([prompts, generated], dim=1)).logits[:, prompts.shape[1] - 1 : -1]
    logits[..., model.config.eos_token_id] = -torch.inf
    chosen = logits.gather(2, generated[..., None])[..., 0]
    assert (chosen >= logits.max(dim=2).values - 1e-4).all()


def generate(model, ids, mask):
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    return model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]


def test_generation_with_cache_is_the_dense_models(case):
    assert_greedy(case.dense, tokens(), generate(case.upcycled, tokens(), tokens() * 0 + 1))


def test_a_left_padded_batch_generates_what_each_row_does_alone(case):
    long, short = tokens(1, 20), tokens(1, 11)
    batch = torch.cat([long, torch.cat([torch.zeros(1, 9, dtype=torch.long), short], dim=1)])
    together = generate(case.trained, batch, (batch != 0).long())
    for row, ids in zip(together, (long, short), strict=True):
        assert_greedy(case.trained, ids, row[None])


def test_the_documents_list_the_tested_backbones(repository):
    text = (repository / "docs" / "backbones.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in cell.replace("`", "").replace(",", " ").split()}
    assert listed == {name.split("-")[0] for name in BACKBONES}
