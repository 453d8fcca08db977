"""The 13 defects of the published code: each test fails where our code has the defect it names.

The models are tiny and random. What they give is compared with plain transformers models, with slow
direct computations and with closed forms. The docstrings say what the published code does.
"""

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from chains import Chain
from ropes import ROPES
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workflow_scripts import dense, ffn, moe, moe_sft, weighted_init
from workflow_scripts import eval as evaluation
from workflow_scripts import weighted_trained as trained
from xft.checkpoints.reader import Checkpoint
from xft.config.validation import sections
from xft.conversions.merged_tensors import merge
from xft.conversions.mixing_artifact import open_mixing, open_sources
from xft.data.examples import tokenize_rows
from xft.data.instructions import Row
from xft.data.templates import make_template
from xft.modeling import experts
from xft.modeling.mixing import Mixing, MixingLogits
from xft.training.trainer import train

EXACT = 1e-5  # in logits: what rounding in fp32 makes of the same computation
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
LAMBDA = 0.6
TOP_2 = ("--num-experts", 4, "--num-experts-per-tok", 2)
PUBLISHED_MIXING = ("--optim", "adafactor", "--learning-rate", "1e-5")
ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}"}
    for n in range(16)
]


def run(step, out: Path, *words, **paths) -> Path:
    """Run a step: run(ffn, out, moe=folder)."""
    flags = [word for name, value in paths.items() for word in (f"--{name}", value)]
    step.main([str(word) for word in [*flags, *words, "--out", out]])
    return out


def save_base(folder: Path, **changes) -> Path:
    """A random Llama; its biases, where it has them, are random too."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | changes))
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


def merge_untrained(base: Path, folder: Path, *moe_flags) -> dict[str, Path]:
    """All artifacts from `base` to the dense model, without training: all experts are the same."""
    chain = Chain(folder, {"moe": moe_flags, "weighted_init": ["--lam", LAMBDA]}, base=base)
    made = {name: chain[name] for name in ("base", "moe", "ffn", "dense")}
    return made | {"weighted": chain["weighted_init"]}


def open_mixing_model(artifacts: dict[str, Path]) -> Mixing:
    sources = open_sources(artifacts["moe"], artifacts["ffn"])
    start = open_mixing(artifacts["weighted"], sources)
    logits = MixingLogits(start.alpha, start.lambda_logit, start.shared_expert_weight)
    return Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, logits)


def tokens(batch=2, length=24, vocabulary=97):
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(model, ids):
    return model.eval()(input_ids=ids).logits.float()


def distance(one, other) -> float:
    return (one - other).abs().max().item()


def assert_all_compute_the_base(artifacts: dict[str, Path], ids) -> torch.Tensor:
    """The mixture, the mixing model and the dense artifact give the base's logits, returned."""
    expected = logits_of(LlamaForCausalLM.from_pretrained(artifacts["base"]), ids)
    ours = {
        "moe": AutoModelForCausalLM.from_pretrained(artifacts["moe"]),
        "mixing": open_mixing_model(artifacts).model,
        "dense": LlamaForCausalLM.from_pretrained(artifacts["dense"]),
    }
    for name, model in ours.items():
        assert distance(logits_of(model, ids), expected) <= EXACT * expected.abs().max(), name
    return expected


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def artifacts(tiny_llama, data, tmp_path_factory) -> dict[str, Path]:
    """All artifacts of a whole run with training, by name; `moe` is the tuned mixture. Read only.

    4 experts, top 2.
    """
    steps = ("--max-steps", 4, "--per-device-train-batch-size", 4, "--learning-rate", 0.03)
    options = {
        "moe": TOP_2,
        "moe_sft": steps,
        "weighted_init": ["--lam", LAMBDA],
        "weighted_trained": steps,
    }
    chain = Chain(tmp_path_factory.mktemp("artifacts"), options, base=tiny_llama, data=data)
    own_names = {
        **{"upcycled": "moe", "moe": "moe_sft"},
        **{"weighted": "weighted_init", "trained": "weighted_trained"},
    }
    made = {name: chain[name] for name in ("base", "ffn", "dense")}
    return made | {name: chain[step] for name, step in own_names.items()}


def sharpen(model):
    """Make the routers of a mixture choose clearly, and use their noise."""
    torch.manual_seed(2)
    for block in model.moe_blocks:
        for weight in block.router.parameters():
            torch.nn.init.normal_(weight)
    return model


@pytest.fixture
def mixture(artifacts):
    """The tuned mixture, with routers that choose clearly."""
    return sharpen(AutoModelForCausalLM.from_pretrained(artifacts["moe"]))


# 1. RoPE


def write_published_rope(base: Path) -> None:
    """State the RoPE as DeepSeek-Coder's config.json does, in the keys of transformers 4."""
    config = json.loads((base / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    (base / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", [*ROPES, "deepseek"])
def test_defect_01_rope_of_the_base_is_kept(kind, tmp_path):
    """Whatever the base's RoPE, its base is 10000 and its kind the default."""
    rope = ROPES["linear" if kind == "deepseek" else kind]
    length = 32 if kind == "dynamic" else 128
    base = save_base(tmp_path / "base", rope_parameters=rope, max_position_embeddings=length)
    if kind == "deepseek":
        write_published_rope(base)
    ids = tokens(length=96)
    expected = assert_all_compute_the_base(merge_untrained(base, tmp_path), ids)

    thetas = {10000.0} if kind == "default" else {10000.0, rope["rope_theta"]}
    for theta in thetas:
        other = {"rope_type": "default", "rope_theta": theta}
        control = LlamaForCausalLM.from_pretrained(base, rope_parameters=other)
        assert distance(logits_of(control, ids), expected) > 0.1


# 2. The causal mask


MASKS = {
    "no mask": None,
    "no padding": [1] * 16,
    "left": [0] * 4 + [1] * 12,
    "right": [1] * 12 + [0] * 4,
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", MASKS)
def test_defect_02_mixing_is_causal(artifacts, padding, attention, training):
    """Without padding, under SDPA, earlier tokens see later ones."""
    model = open_mixing_model(artifacts).model.train(training)
    model.set_attn_implementation(attention)
    row = MASKS[padding] or [1] * 16
    mask = None if MASKS[padding] is None else torch.tensor([row, row])
    real = [place for place in range(16) if row[place]]
    ids = tokens(length=16, vocabulary=290)
    changed = ids.clone()
    changed[:, real[-1]] += 1
    with torch.set_grad_enabled(training):
        one, other = (model(given, attention_mask=mask).logits for given in (ids, changed))
    assert torch.equal(one[:, real[:-1]], other[:, real[:-1]])
    assert distance(one[:, real[-1]], other[:, real[-1]]) > 1e-3
    assert one.requires_grad == training


# 3. What the mixing coefficients learn


@pytest.fixture(scope="module")
def one_good_expert(tiny_llama, data, tmp_path_factory) -> dict[str, Path]:
    """A mixture whose first routed expert knows the rows, while noise spoils the other two."""
    root = tmp_path_factory.mktemp("one_good_expert")
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [Row(**row, number=1) for row in ROWS * 3]
    template = make_template("magicoder", tokenizer)
    for example in tokenize_rows(rows, tokenizer, template, max_length=1024)[0].training:
        model(**{name: torch.tensor([ids]) for name, ids in example.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(root / "base")
    model = AutoModelForCausalLM.from_pretrained(run(moe, root / "up", *TOP_2, base=root / "base"))
    generator = torch.Generator().manual_seed(1)
    for block in model.moe_blocks:
        for weight in block.experts.parameters():
            noise = torch.randn(weight[1:].shape, generator=generator)
            weight.data[1:] += 0.3 * noise
    model.save_pretrained(root / "moe")
    tokenizer.save_pretrained(root / "moe")
    made = {"moe": root / "moe", "ffn": run(ffn, root / "ffn", moe=root / "moe")}
    return made | {"weighted": run(weighted_init, root / "init", "--lam", LAMBDA, **made)}


def learned_shares(artifacts, data, out: Path, *words) -> torch.Tensor:
    """The shares in each line of the metrics of step 6, [steps, layers, experts]."""
    steps = (
        "--max-steps",
        20,
        "--per-device-train-batch-size",
        4,
        "--metrics",
        out / "metrics.jsonl",
    )
    run(trained, out / "trained", *steps, *words, data=data, **artifacts)
    lines = read_lines(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    return torch.tensor([line["shares"] for line in lines])[:, :, 0]


def test_defect_03_the_coefficients_learn_and_are_logged(one_good_expert, data, tmp_path):
    """Adafactor at 1e-5 hardly moves the shares: "learned" is uniform."""
    ours = learned_shares(one_good_expert, data, tmp_path / "ours") - 1 / 3
    published = learned_shares(one_good_expert, data, tmp_path / "published", *PUBLISHED_MIXING)
    published -= 1 / 3
    assert ours.shape == published.shape == (20, 2, 3)
    good = ours[:, :, 0]
    assert (good > 0).all() and (good[5::5] > good[:-5:5]).all()
    assert published.abs().max() < 1e-4
    assert good[-1].min() > 100 * published.abs().max()


# 4. The load estimate


def direct_load(router, x, noisy, noise_alone=False) -> torch.Tensor:
    """Shazeer et al. 2017, eq. 8 and 9, token by token and expert by expert.

    With `noise_alone`, what the published code compares with the threshold.
    """
    clean = (x @ router.input.weight.T).tanh() @ router.output.weight.T
    scale = torch.nn.functional.softplus(x @ router.noise.weight.T) + 0.01
    load = [0.0] * noisy.shape[1]
    for token, row in enumerate(noisy.tolist()):
        ordered = sorted(row, reverse=True)
        for expert, value in enumerate(row):
            others = sorted(row[:expert] + row[expert + 1 :], reverse=True)
            threshold = others[router.top_k - 1]
            if noise_alone:
                inside = value - clean[token, expert] > ordered[router.top_k]
                threshold = ordered[router.top_k] if inside else ordered[router.top_k - 1]
            z = (clean[token, expert] - threshold) / scale[token, expert]
            load[expert] += 0.5 * (1 + math.erf(z / math.sqrt(2)))
    return torch.tensor(load)


def counted_load(router, x, noisy, draws=20000) -> torch.Tensor:
    """Redraw each expert's own noise, the others' fixed: how often is it chosen, in all?"""
    clean = router.logits(x)
    scale = torch.nn.functional.softplus(router.noise(x)) + 0.01
    load = torch.zeros(noisy.shape[1])
    for expert in range(noisy.shape[1]):
        redrawn = noisy.repeat(draws, 1, 1)
        fresh = torch.randn(draws, len(x), generator=torch.Generator().manual_seed(expert))
        redrawn[:, :, expert] = clean[:, expert] + scale[:, expert] * fresh
        chosen = redrawn.topk(router.top_k, dim=-1).indices == expert
        load[expert] = chosen.any(-1).float().mean(0).sum()
    return load


@torch.no_grad()
def test_defect_04_load_is_the_chance_of_being_chosen_under_fresh_noise(tiny_llama, tmp_path):
    """The noise alone, not the noisy logits, is compared with the threshold."""
    sizes = ("--num-experts", 6, "--num-experts-per-tok", 3)
    upcycled = run(moe, tmp_path / "moe", *sizes, base=tiny_llama)
    model = sharpen(AutoModelForCausalLM.from_pretrained(upcycled)).train()
    seen = []
    for block in model.moe_blocks:
        block.router.register_forward_pre_hook(lambda router, given: seen.append((router, *given)))
    routings = model(tokens(length=8)).routing
    assert len(seen) == len(routings) == 2
    for (router, x), routing in zip(seen, routings, strict=True):
        expected = direct_load(router, x, routing.logits)
        torch.testing.assert_close(routing.load, expected, atol=1e-3, rtol=0)
        counted = counted_load(router, x, routing.logits)
        torch.testing.assert_close(routing.load, counted, atol=0.05, rtol=0)
        assert distance(direct_load(router, x, routing.logits, noise_alone=True), expected) > 0.2


# 5. The noise weights


def test_defect_05_noise_weights_start_at_zero_and_stay_there(artifacts, tmp_path):
    """The model's initialiser draws the noise weights again, at random."""
    stored = load_file(artifacts["upcycled"] / "model.safetensors")
    noise = {name: stored.pop(name) for name in list(stored) if "router.noise" in name}
    assert len(noise) == 2 and not any(weight.any() for weight in noise.values())
    shutil.copytree(artifacts["upcycled"], tmp_path / "without_noise")
    save_file(stored, tmp_path / "without_noise" / "model.safetensors", {"format": "pt"})

    loaded = AutoModelForCausalLM.from_pretrained(artifacts["upcycled"])
    loaded.post_init()
    fresh = AutoModelForCausalLM.from_config(loaded.config)
    added = AutoModelForCausalLM.from_pretrained(tmp_path / "without_noise")
    for model in (loaded, fresh, added):
        assert not noise_of(model).any()
    torch.nn.init.ones_(fresh.moe_blocks[0].router.noise.weight)
    before = fresh.moe_blocks[0].router.input.weight.clone()
    for part in [*fresh.modules(), *fresh.parameters()]:
        part._is_hf_initialized = False
    fresh.init_weights()
    assert not noise_of(fresh).any()
    assert distance(fresh.moe_blocks[0].router.input.weight, before) > 0.01


def noise_of(model) -> torch.Tensor:
    return torch.stack([block.router.noise.weight for block in model.moe_blocks])


# 6. Padding


def give_noise(model, noise: torch.Tensor) -> None:
    """Make each router draw this noise, [real tokens, experts]."""
    for block in model.moe_blocks:
        block.router.sample_noise = lambda like: noise


def pad(rows: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """One batch of rows [n] of differing length. What fills them up are tokens like any other."""
    length = max(map(len, rows))
    batch = {name: torch.zeros(len(rows), length, dtype=torch.long) for name in ("ids", "mask")}
    batch["ids"] += 50
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if side == "left" else slice(len(row))
        batch["ids"][number, place] = row
        batch["mask"][number, place] = 1
    positions = (batch["mask"].cumsum(1) - 1).clamp(min=0)
    return {"input_ids": batch["ids"], "attention_mask": batch["mask"], "position_ids": positions}


def squared_variation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return variance / (mean**2 + 1e-10)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_defect_06_padding_is_neither_routed_nor_counted(mixture, side, training):
    """Padding is routed, and counts in the balance loss."""
    mixture.train(training)
    rows = [tokens(1, length, 290)[0] for length in (12, 7, 4)]
    noise = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    batch = pad(rows, side)
    give_noise(mixture, noise)
    together = mixture(**batch, output_router_logits=True)
    alone = []
    for row, own in zip(rows, noise.split([12, 7, 4]), strict=True):
        give_noise(mixture, own)
        alone.append(mixture(row[None]))

    assert together.logits.isfinite().all()
    real = together.logits[batch["attention_mask"].bool()]
    assert distance(real, torch.cat([output.logits[0] for output in alone])) < EXACT
    balance = 0.0
    for layer, routing in enumerate(together.routing):
        own = [output.routing[layer] for output in alone]
        assert torch.equal(routing.indices, torch.cat([part.indices for part in own]))
        load, importance = sum(part.load for part in own), sum(part.importance for part in own)
        torch.testing.assert_close(routing.load, load, atol=1e-4, rtol=0)
        torch.testing.assert_close(routing.importance, importance, atol=1e-4, rtol=0)
        balance += squared_variation(load.tolist()) + squared_variation(importance.tolist())
    assert together.aux_loss.item() == pytest.approx(0.01 * balance, rel=1e-4)


# 7. What is hard-coded


@pytest.mark.parametrize("experts", [(4, 2), (3, 3), (2, 2), (11, 6)])
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 53},
        {"intermediate_size": 20, "num_hidden_layers": 3, "pad_token_id": 96},
        {"tie_word_embeddings": True, "pad_token_id": 0, "head_dim": 16},
    ],
    ids=["odd sizes", "pad id", "tied"],
)
def test_defect_07_other_sizes_vocabularies_and_pad_ids(changes, experts, tmp_path):
    """Sizes, pad id, 8 experts and top 6 are hard-coded; another vocabulary crashes."""
    base = save_base(tmp_path / "base", **changes)
    sizes = ("--num-experts", experts[0], "--num-experts-per-tok", experts[1])
    made = merge_untrained(base, tmp_path, *sizes)
    assert_all_compute_the_base(made, tokens(vocabulary=53))
    model = AutoModelForCausalLM.from_pretrained(made["moe"])
    assert model.config.pad_token_id == changes.get("pad_token_id")
    assert model(tokens(vocabulary=53)).routing[0].indices.shape == (48, experts[1] - 1)


def test_defect_07_llama3_rope_is_taken(tmp_path):
    """RoPE of Llama 3's kind is refused. Here together with all else that Llama 3.2 has."""
    changes = {"rope_parameters": ROPES["llama3"], "tie_word_embeddings": True, "head_dim": 16}
    base = save_base(tmp_path / "base", **changes, eos_token_id=[5, 6, 7])
    made = merge_untrained(base, tmp_path)
    assert_all_compute_the_base(made, tokens(length=96))


def test_defect_07_attention_bias_is_kept(tmp_path):
    """The attention's biases are ignored."""
    base = save_base(tmp_path / "base", attention_bias=True)
    expected = assert_all_compute_the_base(merge_untrained(base, tmp_path), tokens())
    model = LlamaForCausalLM.from_pretrained(base)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data.zero_()
    assert distance(logits_of(model, tokens()), expected) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_defect_07_the_dtype_is_the_bases(dtype, tmp_path):
    """bf16 is hard-coded. In any dtype the merge of equal experts is the base, bit for bit."""
    base = save_base(tmp_path / "base")
    LlamaForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(base)
    made = merge_untrained(base, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(made["moe"]).dtype == dtype
    assert {Checkpoint(made["moe"]).get(n).dtype for n in Checkpoint(made["moe"]).names} == {dtype}
    before, after = (load_file(made[name] / "model.safetensors") for name in ("base", "dense"))
    for name, weight in before.items():
        assert after[name].dtype == dtype
        torch.testing.assert_close(after[name], weight, atol=0, rtol=1e-6)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
TOKENIZERS = {
    "BertTokenizer": {"vocab": {word: number for number, word in enumerate(WORDS)}},
    "GPT2Tokenizer": {
        "vocab": {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3},
        "merges": [("a", "b")],
    },
    "T5Tokenizer": {"vocab": [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)]},
    "ByT5Tokenizer": {},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_defect_07_a_tokenizer_of_any_class_travels_unchanged(name, tmp_path):
    """The tokenizer comes from a list of allowed ones."""
    base = save_base(tmp_path / "base")
    weights = {path.name for path in base.iterdir()}
    getattr(transformers, name)(**TOKENIZERS[name]).save_pretrained(base)
    files = {path.name for path in base.iterdir()} - weights
    assert "tokenizer_config.json" in files
    made = merge_untrained(base, tmp_path)
    for model in ("moe", "dense"):
        for file in files:
            assert (made[model] / file).read_bytes() == (base / file).read_bytes()
        tokenizer = AutoTokenizer.from_pretrained(made[model])
        assert type(tokenizer).__name__ == name
        assert tokenizer("ab a").input_ids == AutoTokenizer.from_pretrained(base)("ab a").input_ids


# 8. lambda


def test_defect_08_only_the_fourth_step_is_told_lambda(artifacts, tmp_path, capsys):
    """lambda is given in a config and on the command line; they may differ."""
    with_lambda = set()
    for step in (moe, moe_sft, ffn, weighted_init, trained, dense, evaluation):
        with pytest.raises(SystemExit):
            step.main(["--help"])
        flags = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        told = {flag for flag in flags if "lam" in flag or "shared-expert-weight" in flag}
        with_lambda |= {(step.__name__.split(".")[-1], flag) for flag in told}
    learned = {("weighted_init", "--learn-lambda"), ("weighted_init", "--no-learn-lambda")}
    assert with_lambda - learned == {("weighted_init", "--lam")}
    keys = {(name, key) for name, section in sections() for key in section.model_fields}
    keys = {(section, key) for section, key in keys if "lam" in key or "expert_weight" in key}
    assert keys == {("merge", "lambdas"), ("mixing", "learn_lambda")}
    sources = {name: artifacts[name] for name in ("moe", "ffn", "weighted")}
    with pytest.raises(SystemExit) as refusal:
        run(dense, tmp_path / "dense", "--lam", 0.5, **sources)
    assert refusal.value.code == 2


def test_defect_08_lambda_comes_from_the_artifact(artifacts):
    """The merge takes lambda from its command line, whatever the coefficients learned with."""
    alpha = load_file(artifacts["trained"] / "model.safetensors")["alpha"].double()
    assert alpha.abs().min() > 1e-3
    experts = load_file(artifacts["ffn"] / "model.safetensors")
    merged = load_file(artifacts["dense"] / "model.safetensors")
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        gate, up = experts[f"{prefix}.experts.gate_up_proj"].double().chunk(2, dim=1)
        down = experts[f"{prefix}.experts.down_proj"].double()
        for name, routed in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            shared = experts[f"{prefix}.shared_expert.{name}.weight"].double()
            mixed = sum(
                share * e for share, e in zip(alpha[layer, 0].softmax(0), routed, strict=True)
            )
            ours = merged[f"{prefix}.{name}.weight"]
            assert distance(ours, 0.6 * shared + 0.4 * mixed) < 1e-6
            assert distance(ours, 0.75 * shared + 0.25 * mixed) > 1e-4


# 9. Files and memory


PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe_names(code: str) -> set[str]:
    """What a module names that reads or writes pickles."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & PICKLERS
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & PICKLERS
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {f"{node.value.id}.{node.attr}"} & {"torch.load", "torch.save"}
    return found


def test_defect_09_the_code_reads_and_writes_no_pickles(repository):
    """Experts are pickled, and unpickled from a path in a config."""
    assert unsafe_names("import torch, pickle\ntorch.load('x')") == {"pickle", "torch.load"}
    modules = [*(repository / "xft").rglob("*.py"), *(repository / "workflow_scripts").glob("*.py")]
    assert len(modules) > 30
    assert {str(path): unsafe_names(path.read_text()) for path in modules} == {
        str(path): set() for path in modules
    }


def test_defect_09_artifacts_hold_safetensors_and_text(artifacts):
    """Experts are pickled. A pickle is neither JSON nor text, nor are its tensors mapped."""
    for name, folder in artifacts.items():
        assert Checkpoint(folder).names
        for file in folder.iterdir():
            assert file.suffix in (".safetensors", ".json", ".md"), (name, file)
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".md":
                assert file.read_text().startswith("---")


def test_defect_09_the_dense_config_is_the_bases(artifacts):
    """The final config keeps the mixture's fields."""
    ours, bases = (
        json.loads((artifacts[n] / "config.json").read_text()) for n in ("dense", "base")
    )
    assert ours == bases


def test_defect_09_no_tensor_is_left_over(artifacts):
    """Random projections that nothing uses are saved with the mixture and the dense model."""
    shapes = {
        name: {tensor: tuple(Checkpoint(path).shape(tensor)) for tensor in Checkpoint(path).names}
        for name, path in artifacts.items()
    }
    experts, router = {}, {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        for projection in ("gate_proj", "up_proj", "down_proj"):
            shape = shapes["base"][f"{prefix}.{projection}.weight"]
            experts[f"{prefix}.shared_expert.{projection}.weight"] = shape
        experts[f"{prefix}.experts.gate_up_proj"] = (3, 96, 32)
        experts[f"{prefix}.experts.down_proj"] = (3, 32, 48)
        router[f"{prefix}.router.input.weight"] = (3, 32)
        router[f"{prefix}.router.output.weight"] = (3, 3)
        router[f"{prefix}.router.noise.weight"] = (3, 32)
    rest = {name: shape for name, shape in shapes["base"].items() if ".mlp." not in name}
    assert shapes["upcycled"] == shapes["moe"] == rest | experts | router
    assert shapes["ffn"] == experts
    assert shapes["weighted"] == shapes["trained"] == {"alpha": (2, 1, 3)}
    assert shapes["dense"] == shapes["base"]


def test_defect_09_each_model_has_its_tokenizer(artifacts):
    """No tokenizer is saved."""
    expected = AutoTokenizer.from_pretrained(artifacts["base"])("def f(): pass").input_ids
    for name in ("upcycled", "moe", "dense"):
        assert AutoTokenizer.from_pretrained(artifacts[name])("def f(): pass").input_ids == expected


MIB = 2**20
LAYERS, HIDDEN, INTERMEDIATE = 20, 256, 512
DENSE_FFN = LAYERS * 3 * HIDDEN * INTERMEDIATE * 2 / MIB  # of the base, in bf16
MEASURED = """
import json, sys, threading, time
from pathlib import Path
import torch
from workflow_scripts import dense, ffn, moe, weighted_init
from xft.config.validation import sections
from xft.conversions.mixing_artifact import open_mixing, open_sources
from xft.modeling.mixing import Mixing, MixingLogits

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def peak(action):
    start, high, done = anonymous(), [0.0], threading.Event()
    def watch():
        while not done.wait(0.001):
            high[0] = max(high[0], anonymous() - start)
    thread = threading.Thread(target=watch)
    thread.start()
    action()
    done.set()
    thread.join()
    return high[0]

def mix(folder):
    sources = open_sources(folder / "moe", folder / "ffn")
    start = open_mixing(folder / "weighted", sources)
    logits = MixingLogits(start.alpha, None, start.shared_expert_weight)
    mixing = Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, logits)
    ids = torch.arange(8)[None]
    mixing.model(input_ids=ids, labels=ids).loss.backward()
    mixing.take_gradients()

def peaks(folder):
    def words(*names):
        return [word for name in names for word in (f"--{name}", str(folder / name))]
    def run(step, out, *arguments):
        return peak(lambda: step.main([*arguments, "--out", str(folder / out)]))
    return {
        "moe": run(moe, "moe", *words("base")),
        "ffn": run(ffn, "ffn", *words("moe")),
        "weighted": run(weighted_init, "weighted", *words("moe", "ffn"), "--lam", "0.5"),
        "dense": run(dense, "dense", *words("moe", "ffn", "weighted")),
        "mixing": peak(lambda: mix(folder)),
    }

small, large = map(Path, sys.argv[1:])
peaks(small)  # imports and first uses
print(json.dumps(peaks(large)))
"""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory, repository):
    """MiB of memory that each step takes at most, apart from mapped files, on a model of size."""
    root = tmp_path_factory.mktemp("memory")
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE}
    for name, layers in (("small", 1), ("large", LAYERS)):
        (root / name).mkdir()
        base = save_base(root / name / "base", num_hidden_layers=layers, **sizes)
        LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    command = [sys.executable, "-c", MEASURED, str(root / "small"), str(root / "large")]
    # With this, what is freed returns to the system at once, and what is measured is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    shutil.rmtree(root)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc"
)


@needs_proc
@pytest.mark.parametrize("step", ["moe", "ffn", "weighted", "dense"])
def test_defect_09_a_conversion_holds_no_more_than_a_layer(peaks, step):
    """Models are loaded whole, several times, in fp32."""
    layer_of_mixture = 8 * DENSE_FFN / LAYERS
    assert peaks[step] < layer_of_mixture < DENSE_FFN / 2


# 10. Speed


@pytest.fixture
def attention_calls(monkeypatch):
    """The layers that called an attention registered by the user as "counted", in order."""
    calls = []

    def counted(module, *args, **kwargs):
        calls.append(module.layer_idx)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("counted", counted)
    AttentionMaskInterface.register("counted", sdpa_mask)
    return calls


def test_defect_10_the_users_attention_is_used(artifacts, attention_calls):
    """Flash attention is ignored, in the mixture and in mixing."""
    ids = tokens(vocabulary=290)
    model = AutoModelForCausalLM.from_pretrained(artifacts["moe"], attn_implementation="counted")
    chosen_at_load = logits_of(model, ids)
    assert attention_calls == [0, 1]
    model.set_attn_implementation("eager")
    assert distance(logits_of(model, ids), chosen_at_load) < EXACT
    assert attention_calls == [0, 1]
    for chosen in (model, open_mixing_model(artifacts).model):
        attention_calls.clear()
        chosen.set_attn_implementation("counted")
        logits_of(chosen, ids)
        assert attention_calls == [0, 1]


def test_defect_10_weights_are_merged_once_per_optimiser_step(
    artifacts, data, tmp_path, monkeypatch
):
    """The merged weights are computed again for each micro-batch."""
    merged = []

    def counted(experts, coefficients):
        merged.append(coefficients)
        return merge(experts, coefficients)

    monkeypatch.setattr("xft.conversions.merged_tensors.merge", counted)
    words = (
        "--max-steps",
        2,
        "--per-device-train-batch-size",
        1,
        "--gradient-accumulation-steps",
        4,
    )
    sources = {name: artifacts[name] for name in ("moe", "ffn", "weighted")}
    run(trained, tmp_path / "trained", *words, data=data, **sources)
    projections = 2 * 3
    assert len(merged) == (1 + 2) * projections


@needs_proc
def test_defect_10_the_experts_of_mixing_stay_mapped(peaks):
    """Each process holds all experts in fp32.

    Ours takes the dense model in fp32, as much for gradients, and something for the rest.
    """
    dense_in_fp32, experts = 2 * DENSE_FFN, 8 * DENSE_FFN
    assert peaks["mixing"] < 3 * dense_in_fp32 < experts


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **kwargs or {})


@torch.no_grad()
def operations(model, count: int) -> int:
    hidden = torch.randn(1, count, 32, generator=torch.Generator().manual_seed(0))
    with Operations() as counted:
        model.moe_blocks[0](hidden)
    return counted.count


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_defect_10_no_loop_over_tokens(tiny_llama, tmp_path, implementation):
    """The loop over the experts is Python's. Ours, "eager", is too; the other two have none."""
    counts = {}
    for number in (4, 8):
        sizes = ("--num-experts", number, "--num-experts-per-tok", 3)
        out = run(moe, tmp_path / f"moe{number}", *sizes, base=tiny_llama)
        model = AutoModelForCausalLM.from_pretrained(out, experts_implementation=implementation)
        counts[number] = operations(model, count=16)
        assert counts[number] == operations(model, count=160)
    assert counts[8] == counts[4] or implementation == "eager"


def test_defect_10_a_gpu_gets_grouped_experts(mixture, monkeypatch):
    """The expert loop is Python."""
    calls = []
    grouped_mm = torch.nn.functional.grouped_mm

    def counted(*arguments, **options):
        calls.append(options["offs"])
        return grouped_mm(*arguments, **options)

    monkeypatch.setattr(experts, "has_fast_grouped_mm", lambda *_: True)
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", counted)
    with torch.no_grad():
        mixture(torch.randint(3, 97, (1, 9)))
    assert len(calls) == 2 * len(mixture.moe_blocks)


# 11. Master weights


def changed_share(model, before: dict[str, torch.Tensor]) -> float:
    """The share of weights that are not what they were, without rows of tokens not met."""
    after = {name: p for name, p in model.named_parameters() if "embed_tokens" not in name}
    changed = sum((after[name] != before[name]).sum().item() for name in after)
    return changed / sum(parameter.numel() for parameter in after.values())


def copy_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_defect_11_bf16_has_fp32_master_weights(tiny_llama, tokenizer, data, tmp_path, monkeypatch):
    """Pure bf16 weights: at the peak rate about half of them do not change in a step."""
    base = tmp_path / "base"
    LlamaForCausalLM.from_pretrained(tiny_llama, dtype="bfloat16").save_pretrained(base)
    tokenizer.save_pretrained(base)
    upcycled = run(moe, tmp_path / "moe", *TOP_2, base=base)
    trained_models = []

    def watched(training):
        trained_models.append((training.model, copy_of(training.model)))
        return train(training)

    monkeypatch.setattr("xft.training.trainer.train", watched)
    rate = ("--learning-rate", 5e-5, "--max-steps", 1, "--precision", "bf16")
    run(moe_sft, tmp_path / "moe_sft", *rate, moe=upcycled, data=data)
    ((model, before),) = trained_models
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert changed_share(model, before) > 0.99

    pure = AutoModelForCausalLM.from_pretrained(upcycled)
    assert {parameter.dtype for parameter in pure.parameters()} == {torch.bfloat16}
    before = copy_of(pure)
    ids = tokens(batch=4, length=64, vocabulary=290)
    pure.train()(ids, labels=ids).loss.backward()
    torch.optim.AdamW(pure.parameters(), lr=5e-5, weight_decay=0.0).step()
    assert 0.3 < changed_share(pure, before) < 0.7


# 12. Experts without tokens, rows without a response


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_defect_12_an_expert_without_tokens_has_a_zero_gradient(
    tiny_llama, tmp_path, implementation
):
    """An expert that gets no token gets no gradient: a hang or an error under DDP."""
    upcycled = run(moe, tmp_path / "moe", "--num-experts-per-tok", 2, base=tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(upcycled, experts_implementation=implementation)
    ids = tokens(batch=1, length=3)
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    for block, routing in zip(model.moe_blocks, output.routing, strict=True):
        met = set(routing.indices.flatten().tolist())
        assert 0 < len(met) < 7
        for weight in block.experts.parameters():
            moved = {expert for expert, gradient in enumerate(weight.grad) if gradient.any()}
            assert moved and moved <= met


def test_defect_12_rows_without_a_response_are_dropped_and_counted(artifacts, tmp_path, capsys):
    """A row whose prompt fills the window trains on nothing: the loss is NaN."""
    long = [{"instruction": f"Add {n}. " * 60, "response": "return 1"} for n in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4] + long))
    words = ("--max-length", 200, "--per-device-train-batch-size", 1, "--max-steps", 8)
    metrics = tmp_path / "metrics.jsonl"
    paths = {"moe": artifacts["upcycled"], "data": file, "metrics": metrics}
    run(moe_sft, tmp_path / "out", *words, **paths)
    told = f"8 rows of {file}: 4 to train on; left out: 4 prompt fills the window"
    assert told in capsys.readouterr().err
    losses = [line["loss"] for line in read_lines(metrics)]
    assert len(losses) == 8
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


# 13. transformers 5


def test_defect_13_runs_on_transformers_5(mixture, tmp_path):
    """Nothing works with transformers 5."""
    assert int(transformers.__version__.split(".")[0]) >= 5
    mixture.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokens(length=10, vocabulary=290)
    assert torch.equal(logits_of(model, ids), logits_of(mixture, ids))
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "use_cache": True}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    lengths = []
    model.moe_blocks[0].register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert generated.sequences.shape == (2, 22)
    assert lengths == [10] + [1] * 11
    whole = logits_of(model, generated.sequences)[:, 9:-1]
    step_by_step = torch.stack(generated.logits, dim=1)
    assert distance(step_by_step, whole) <= EXACT * whole.abs().max()
    whole[..., model.config.eos_token_id] = -torch.inf
    assert torch.equal(generated.sequences[:, 10:], whole.argmax(-1))
