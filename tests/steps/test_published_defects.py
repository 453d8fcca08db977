"""The 13 defects of the published code: each test fails where our code has the defect it names.

The models are tiny and random. What they give is compared with plain transformers models, with slow
direct computations and with closed forms. The docstrings say what the published code does.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from backbones import ROPES, save_base
from chains import Chain
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workflow_scripts import dense
from workflow_scripts import weighted_trained as trained
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.conversions.merged_tensors import merge
from xft.conversions.mixing_artifact import open_mixing, open_sources
from xft.data.examples import tokenize_rows
from xft.data.instructions import Row
from xft.data.templates import make_template
from xft.modeling.mixing import Mixing, MixingLogits
from xft.training.trainer import train

EXACT = 1e-5  # in logits: what rounding in fp32 makes of the same computation
LAMBDA = 0.6
TOP_2 = ["--num-experts", 4, "--num-experts-per-tok", 2]
INIT = {"weighted_init": ["--lam", LAMBDA]}
ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}"}
    for n in range(16)
]


def open_mixing_model(chain: Chain, mixture: str = "moe_sft") -> Mixing:
    sources = open_sources(chain[mixture], chain["ffn"])
    start = open_mixing(chain["weighted_init"], sources)
    logits = MixingLogits(start.alpha, start.lambda_logit, start.shared_expert_weight)
    return Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, logits)


def tokens(batch=2, length=24, vocabulary=97):
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(model, ids):
    return model.eval()(input_ids=ids).logits.float()


def distance(one, other) -> float:
    return (one - other).abs().max().item()


def assert_all_compute_the_base(chain: Chain, ids) -> torch.Tensor:
    """The mixture, the mixing model and the dense artifact give the base's logits, returned."""
    expected = logits_of(LlamaForCausalLM.from_pretrained(chain["base"]), ids)
    ours = {
        "moe": AutoModelForCausalLM.from_pretrained(chain["moe"]),
        "mixing": open_mixing_model(chain, "moe").model,
        "dense": LlamaForCausalLM.from_pretrained(chain["dense"]),
    }
    for name, model in ours.items():
        assert distance(logits_of(model, ids), expected) <= EXACT * expected.abs().max(), name
    return expected


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def chain(tiny_llama, data, tmp_path_factory) -> Chain:
    """A whole run, 4 experts, top 2. Read only.

    The mixture's routers choose clearly. Its first routed expert is the base's MLP; noise spoils
    the other two.
    """
    folder = tmp_path_factory.mktemp("chain")
    upcycled = Chain(folder, {"moe": TOP_2}, base=tiny_llama)["moe"]
    model = AutoModelForCausalLM.from_pretrained(upcycled)
    for block in model.moe_blocks:
        for weight in block.router.parameters():
            torch.nn.init.normal_(weight)
        for weight in block.experts.parameters():
            weight.data[1:] += 0.3 * torch.randn(weight[1:].shape)
    model.save_pretrained(folder / "moe_sft")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder / "moe_sft")
    given = {"base": tiny_llama, "moe": upcycled, "moe_sft": folder / "moe_sft", "data": data}
    learning = ["--max-steps", 20, "--per-device-train-batch-size", 4]
    learning += ["--metrics", folder / "metrics.jsonl"]
    return Chain(folder, INIT | {"weighted_trained": learning}, **given)


@pytest.fixture
def mixture(chain):
    return AutoModelForCausalLM.from_pretrained(chain["moe_sft"])


@pytest.mark.parametrize("kind", [*ROPES, "deepseek"])
def test_defect_01_rope_of_the_base_is_kept(kind, tmp_path):
    """Whatever the base's RoPE, its base is 10000 and its kind the default."""
    rope = ROPES["linear" if kind == "deepseek" else kind]
    length = 32 if kind == "dynamic" else 128
    base = save_base(
        "llama", tmp_path / "base", rope_parameters=rope, max_position_embeddings=length
    )
    if kind == "deepseek":  # its config.json has the keys of transformers 4
        config = json.loads((base / "config.json").read_text())
        del config["rope_parameters"]
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
        (base / "config.json").write_text(json.dumps(config))
    ids = tokens(length=96)
    expected = assert_all_compute_the_base(Chain(tmp_path, INIT, base=base), ids)
    thetas = {10000.0} if kind == "default" else {10000.0, rope["rope_theta"]}
    for theta in thetas:
        other = {"rope_type": "default", "rope_theta": theta}
        control = LlamaForCausalLM.from_pretrained(base, rope_parameters=other)
        assert distance(logits_of(control, ids), expected) > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_defect_02_mixing_is_causal(chain, attention):
    """Without padding, under SDPA, earlier tokens see later ones."""
    model = open_mixing_model(chain).model
    model.set_attn_implementation(attention)
    ids = tokens(length=16)
    changed = ids.clone()
    changed[:, -1] += 1
    one, other = (logits_of(model, given) for given in (ids, changed))
    assert torch.equal(one[:, :-1], other[:, :-1])
    assert distance(one[:, -1], other[:, -1]) > 1e-3


def test_defect_03_the_coefficients_learn_and_are_logged(chain, tmp_path):
    """Adafactor at 1e-5 hardly moves the shares: "learned" is uniform."""
    words = chain.words("weighted_trained")
    file = tmp_path / "metrics.jsonl"
    published = ["--optim", "adafactor", "--learning-rate", "1e-5", "--metrics", str(file)]
    trained.main([*words, *published, "--out", str(tmp_path / "out")])
    assert chain["weighted_trained"]
    shares, losses = [], []
    for metrics in (chain.folder / "metrics.jsonl", file):
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        shares.append(torch.tensor([line["shares"] for line in lines])[:, :, 0] - 1 / 3)
        losses.append([line["loss"] for line in lines])
    ours, published = (each.abs().amax(-1) for each in shares)
    assert ours.shape == published.shape == (20, 2)
    assert (ours[5::5] > ours[:-5:5]).all()
    assert ours[-1].min() > 100 * published.max()
    assert sum(losses[0][-4:]) < sum(losses[1][-4:])  # of the same rows


def counted_load(router, x, noisy, draws=20000) -> torch.Tensor:
    """Redraw each expert's own noise, the others' fixed: how often is it chosen, in all?"""
    clean = (x @ router.input.weight.T).tanh() @ router.output.weight.T
    scale = torch.nn.functional.softplus(x @ router.noise.weight.T) + 0.01
    load = torch.zeros(noisy.shape[1])
    for expert in range(noisy.shape[1]):
        redrawn = noisy.repeat(draws, 1, 1)
        redrawn[:, :, expert] = clean[:, expert] + scale[:, expert] * torch.randn(draws, len(x))
        chosen = redrawn.topk(router.top_k, dim=-1).indices == expert
        load[expert] = chosen.any(-1).float().mean(0).sum()
    return load


@torch.no_grad()
def test_defect_04_load_is_the_chance_of_being_chosen_under_fresh_noise(tiny_llama, tmp_path):
    """The noise alone, not the noisy logits, is compared with the threshold."""
    flags = ["--num-experts", 6, "--num-experts-per-tok", 3]
    chain = Chain(tmp_path, {"moe": flags}, base=tiny_llama)
    (block, _) = AutoModelForCausalLM.from_pretrained(chain["moe"]).train().moe_blocks
    for weight in block.router.parameters():
        torch.nn.init.normal_(weight)
    x = torch.randn(12, 32)
    block(x)
    counted = counted_load(block.router, x, block.routing.logits)
    torch.testing.assert_close(block.routing.load, counted, atol=0.05, rtol=0)
    assert distance(block.routing.load, block.routing.indices.flatten().bincount()) > 0.2


def test_defect_05_noise_weights_start_at_zero_and_stay_there(chain):
    """The model's initialiser draws the noise weights again, at random."""

    def noise_of(model) -> torch.Tensor:
        return torch.stack([block.router.noise.weight for block in model.moe_blocks])

    model = AutoModelForCausalLM.from_pretrained(chain["moe"])
    assert not noise_of(model).any()
    router = model.moe_blocks[0].router
    torch.nn.init.ones_(router.noise.weight)
    before = router.input.weight.clone()
    for part in [*model.modules(), *model.parameters()]:
        part._is_hf_initialized = False
    model.init_weights()
    assert not noise_of(model).any()
    assert distance(router.input.weight, before) > 0.01


def squared_variation(values: torch.Tensor) -> float:
    return (values.var(unbiased=True) / (values.mean() ** 2 + 1e-10)).item()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_defect_06_padding_is_neither_routed_nor_counted(mixture, side, training):
    """Padding is routed, and counts in the balance loss."""
    mixture.train(training)
    lengths = [12, 7, 4]
    rows = [tokens(1, length, 290)[0] for length in lengths]
    noise = torch.randn(sum(lengths), 3)

    def compute(noise, **batch):
        for block in mixture.moe_blocks:
            block.router.sample_noise = lambda like: noise
        return mixture(**batch, output_router_logits=True)

    alone = [
        compute(own, input_ids=row[None])
        for row, own in zip(rows, noise.split(lengths), strict=True)
    ]
    parts = [*rows, *map(torch.ones_like, rows)]
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side=side)
    ids, mask = padded.chunk(2)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    ids = ids + 50 * (1 - mask)  # what fills a row up are tokens like any other
    together = compute(noise, input_ids=ids, attention_mask=mask, position_ids=places)
    expected = torch.cat([output.logits[0] for output in alone])
    assert distance(together.logits[mask.bool()], expected) < EXACT
    balance = 0.0
    for layer, routing in enumerate(together.routing):
        own = [output.routing[layer] for output in alone]
        assert torch.equal(routing.indices, torch.cat([part.indices for part in own]))
        for name in ("load", "importance"):
            total = sum(getattr(part, name) for part in own)
            torch.testing.assert_close(getattr(routing, name), total, atol=1e-4, rtol=0)
            balance += squared_variation(total)
    assert together.aux_loss.item() == pytest.approx(0.01 * balance, rel=1e-4)


@pytest.mark.parametrize(
    ("experts", "backbone", "changes"),
    [
        ((4, 2), "llama", {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}),
        ((3, 3), "llama", {"num_hidden_layers": 3, "intermediate_size": 20, "pad_token_id": 96}),
        ((11, 6), "llama-biases", {"vocab_size": 53, "pad_token_id": None}),
        (
            (2, 2),
            "llama-tied",
            {"rope_parameters": ROPES["llama3"], "head_dim": 16, "eos_token_id": [5, 6]},
        ),
    ],
    ids=["sizes", "pad id", "biases", "Llama 3.2"],
)
def test_defect_07_nothing_is_fixed_to_one_model(experts, backbone, changes, tmp_path):
    """Sizes, pad id, 8 experts and top 6 are hard-coded; other vocabularies and RoPEs crash."""
    base = save_base(backbone, tmp_path / "base", **changes)
    flags = ["--num-experts", experts[0], "--num-experts-per-tok", experts[1]]
    chain = Chain(tmp_path, INIT | {"moe": flags}, base=base)
    ids = tokens(length=96, vocabulary=53)
    assert_all_compute_the_base(chain, ids)
    model = AutoModelForCausalLM.from_pretrained(chain["moe"])
    assert model.config.pad_token_id == changes.get("pad_token_id", 0)
    assert model(ids).routing[0].indices.shape == (192, experts[1] - 1)


def test_defect_08_lambda_comes_from_the_artifact(chain, tmp_path):
    """lambda is given in a config and on the command line; they may differ."""
    with pytest.raises(SystemExit):
        dense.main([*chain.words("dense"), "--lam", "0.5", "--out", str(tmp_path / "out")])
    alpha = load_file(chain["weighted_trained"] / "model.safetensors")["alpha"].double()
    experts = load_file(chain["ffn"] / "model.safetensors")
    merged = load_file(chain["dense"] / "model.safetensors")
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        shared = experts[f"{prefix}.shared_expert.down_proj.weight"].double()
        routed = experts[f"{prefix}.experts.down_proj"].double()
        mixed = torch.einsum("i,ioh->oh", alpha[layer, 0].softmax(0), routed)
        ours = merged[f"{prefix}.down_proj.weight"]
        assert distance(ours, LAMBDA * shared + (1 - LAMBDA) * mixed) < 1e-6


def test_defect_09_artifacts_hold_what_is_needed_and_no_pickles(chain):
    """Experts are pickled, unused tensors saved; no tokenizer is; the dense config is a mixture's.

    tests/modeling/test_memory.py tests what conversions and mixing hold in memory.
    """
    names = ("base", "moe", "moe_sft", "ffn", "weighted_init", "weighted_trained", "dense")
    checkpoints = {name: Checkpoint(chain[name]) for name in names}
    shapes = {n: {t: tuple(c.shape(t)) for t in c.names} for n, c in checkpoints.items()}
    experts = {name: shape for name, shape in shapes["moe"].items() if "expert" in name}
    routers = {name for name in shapes["moe"] if ".router." in name}
    rest = {name: shape for name, shape in shapes["base"].items() if ".mlp." not in name}
    assert shapes["moe"] == shapes["moe_sft"]
    assert shapes["moe"].keys() == rest.keys() | experts.keys() | routers
    assert shapes["ffn"] == experts
    assert shapes["weighted_init"] == shapes["weighted_trained"] == {"alpha": (2, 1, 3)}
    assert shapes["dense"] == shapes["base"]
    files = {file for name in names for file in chain[name].iterdir()}
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md"}
    assert checkpoints["dense"].config == checkpoints["base"].config
    expected, *others = (
        AutoTokenizer.from_pretrained(chain[name])("def f(): pass").input_ids
        for name in ("base", "moe", "dense")
    )
    assert others == [expected, expected]


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


def test_defect_10_speed(chain, mixture, monkeypatch):
    """Attentions of users are ignored; tokens are a loop; each micro-batch merges the weights."""
    calls, merged, counts = [], [], []

    def attention(module, *args, **kwargs):
        calls.append(module.layer_idx)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("counted", attention)
    AttentionMaskInterface.register("counted", sdpa_mask)
    monkeypatch.setattr(
        "xft.conversions.merged_tensors.merge",
        lambda *given: merged.append(given) or merge(*given),
    )
    mixing = open_mixing_model(chain)
    ids = tokens()
    for model in (mixture, mixing.model):
        plain = logits_of(model, ids)
        model.set_attn_implementation("counted")
        assert distance(logits_of(model, ids), plain) < EXACT
    assert calls == [0, 1] * 2

    optimizer = mixing.build_optimizer(torch.optim.SGD, {"lr": 1.0}, None)
    for _ in range(4):
        mixing.model(ids, labels=ids).loss.backward()
    optimizer.step()
    assert len(merged) == (1 + 1) * 2 * 3  # at the start and after the step: layers, projections

    for length in (32, 320):
        with torch.no_grad(), Operations() as counted:
            mixture.moe_blocks[0](torch.randn(1, length, 32))
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_defect_11_bf16_has_fp32_master_weights(tiny_llama, tokenizer, data, tmp_path, monkeypatch):
    """Pure bf16 weights: at the peak rate about half of them do not change in a step."""
    base = tmp_path / "base"
    LlamaForCausalLM.from_pretrained(tiny_llama, dtype="bfloat16").save_pretrained(base)
    tokenizer.save_pretrained(base)
    weights = []

    def watched(training):
        # without rows of tokens that no example has
        learned = [(n, p) for n, p in training.model.named_parameters() if "embed_tokens" not in n]
        weights.extend((parameter, parameter.detach().clone()) for _, parameter in learned)
        return train(training)

    monkeypatch.setattr("xft.training.trainer.train", watched)
    rate = ["--learning-rate", 5e-5, "--max-steps", 1, "--precision", "bf16"]
    assert Chain(tmp_path, {"moe": TOP_2, "moe_sft": rate}, base=base, data=data)["moe_sft"]
    assert {after.dtype for after, _ in weights} == {torch.float32}
    changed = sum((after != before).sum().item() for after, before in weights)
    assert changed > 0.99 * sum(before.numel() for _, before in weights)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_defect_12_an_expert_without_tokens_has_a_zero_gradient(chain, implementation):
    """An expert that gets no token gets no gradient: a hang or an error under DDP."""
    model = AutoModelForCausalLM.from_pretrained(
        chain["moe_sft"], experts_implementation=implementation
    )
    ids = tokens(batch=1, length=2)
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    for block, routing in zip(model.moe_blocks, output.routing, strict=True):
        met = set(routing.indices.flatten().tolist())
        assert 0 < len(met) < 3
        for weight in block.experts.parameters():
            assert {expert for expert, gradient in enumerate(weight.grad) if gradient.any()} <= met


def test_defect_12_a_row_whose_prompt_fills_the_window_is_left_out(tokenizer):
    """Such a row trains on nothing: the loss is NaN."""
    template = make_template("magicoder", tokenizer)
    row = Row("Add 1. " * 60, "return 1", number=1)
    with pytest.raises(UserError, match="no row has a response within max_length = 200"):
        tokenize_rows([row], tokenizer, template, max_length=200)


def test_defect_13_runs_on_transformers_5(mixture, tmp_path):
    """Nothing works with transformers 5."""
    assert int(transformers.__version__.split(".")[0]) >= 5
    mixture.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokens(length=10, vocabulary=290)
    lengths = []
    model.moe_blocks[0].register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    generated = model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert lengths == [10] + [1] * 11
    whole = logits_of(mixture, generated)[:, 9:-1]
    whole[..., model.config.eos_token_id] = -torch.inf
    assert torch.equal(generated[:, 10:], whole.argmax(-1))
