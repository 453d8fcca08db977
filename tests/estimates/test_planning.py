"""Plans: parameters, memory, disk and work, against real models, real files and closed forms."""

import gzip
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
import yaml
from backbones import BACKBONES, SIZES
from chains import Chain
from low_rank import save_base
from published import DEEPSEEK
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

from xft.checkpoints.reader import SINGLE_FILE, Checkpoint
from xft.config.sections import (
    DataConfig,
    EvaluationConfig,
    HealConfig,
    MoeConfig,
    MoeSftConfig,
    SftConfig,
)
from xft.config.training import MixingTraining
from xft.config.validation import complete
from xft.conversions.extract import extract_ffn
from xft.conversions.merge import ALPHA, initial_logits
from xft.estimates import (
    activations,
    calibration,
    compute,
    disk,
    report,
    strategy,
)
from xft.estimates.activations import Batch, Numbers
from xft.estimates.flops import tuning_ratio
from xft.estimates.gpus import GPUS, Gpu, cpu
from xft.estimates.memory import Job, mixing_memory, tuning_memory
from xft.estimates.parameters import Models
from xft.estimates.report import summary
from xft.estimates.rows import Rows, count_problems, find_rows
from xft.estimates.tensors import compute_table, planned_table, read_table
from xft.modeling.configuration import MOE_SETTINGS, upcycled_config_class
from xft.modeling.mixing import Mixing, MixingLogits
from xft.tools import plan
from xft.training.losses import LabelledLoss

GIB = 2**30
# The architectures of the recipes' bases, as published.
SMOLLM2 = DEEPSEEK | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
DEEPSEEK_6_7B = DEEPSEEK | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
STABLE_CODE = DEEPSEEK | {
    "architectures": ["StableLmForCausalLM"],
    "model_type": "stablelm",
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 50304,
}
TINYLLAMA = DEEPSEEK | {
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
LLAMA_3_2 = DEEPSEEK | {
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
QWEN_0_5B = DEEPSEEK | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_1_5B = QWEN_0_5B | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}
GEMMA_270M = DEEPSEEK | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
    "tie_word_embeddings": True,
}
# Of each recipe: the base's architecture, and the parameters that its makers count.
RECIPES = {
    "deepseek-coder-1.3b": (DEEPSEEK, 1_346_471_936),
    "deepseek-coder-1.3b-lora": (DEEPSEEK, 1_346_471_936),
    "deepseek-coder-6.7b": (DEEPSEEK_6_7B, 6_740_512_768),
    "stable-code-3b": (STABLE_CODE, 2_795_443_200),
    "tinyllama-1.1b": (TINYLLAMA, 1_100_048_384),
    "llama-3.2-1b": (LLAMA_3_2, 1_235_814_400),
    "qwen2.5-coder-0.5b": (QWEN_0_5B, 494_032_768),
    "qwen2.5-coder-0.5b-lora": (QWEN_0_5B, 494_032_768),
    "qwen2.5-coder-0.5b-cpu": (QWEN_0_5B, 494_032_768),
    "qwen2.5-coder-1.5b": (QWEN_1_5B, 1_543_714_304),
    "smollm2-135m": (SMOLLM2, 134_515_008),
    "gemma-3-270m-cpu": (GEMMA_270M, 268_098_176),
}
SMALL_GPU = {"deepseek-coder-1.3b-lora", "qwen2.5-coder-0.5b-lora"}
ON_CPU = {"smollm2-135m", "qwen2.5-coder-0.5b-cpu", "gemma-3-270m-cpu"}


def models_of(folder: Path, config: dict, **changes) -> Models:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return Models(compute_table(file), MoeConfig(**changes))


@pytest.fixture
def deepseek(tmp_path) -> Models:
    return models_of(tmp_path, DEEPSEEK)


# Parameters


def test_the_published_recipe_has_the_published_sizes(deepseek):
    assert deepseek.dense_total == 1_346_471_936
    assert deepseek.moe_total == 7_028_346_008
    assert deepseek.moe_total - deepseek.moe_active == 2 * 24 * 3 * 2048 * 5504


SWITCHES = ("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias", "use_qk_norm")


@pytest.mark.parametrize("switch", [None, True, False])
@pytest.mark.parametrize("name", BACKBONES)
def test_headers_and_config_agree(name, switch, tmp_path):
    settings = SIZES | BACKBONES[name]
    if switch is not None:
        settings |= dict.fromkeys(SWITCHES, switch) | {"tie_word_embeddings": switch}
    config = AutoConfig.for_model(name.split("-")[0], **settings)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    headers, computed = read_table(tmp_path), compute_table(tmp_path / "config.json")
    # The files of GPT-NeoX keep an old name of the output layer.
    names = {name: name.replace("embed_out", "lm_head") for name in headers.names}
    assert {names[name]: headers.tensors[name] for name in names} == computed.tensors
    assert (headers.heads, headers.embedding) == (computed.heads, computed.embedding)
    for table in (headers, computed):
        assert sum(table.parameters.values()) == model.num_parameters()
        assert table.is_tied == model.config.tie_word_embeddings
    assert headers.nbytes == sum(
        tensor.nbytes for tensor in map(Checkpoint(tmp_path).get, headers.names)
    )


def test_an_old_configs_keys_are_read(tmp_path):
    """As transformers 4 wrote them, and with code and kernels that are not on this machine."""
    old = {"rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"}
    elsewhere = {"auto_map": {"AutoConfig": "a--b.C"}, "attn_implementation": "flash_attention_2"}
    left_out = ("num_key_value_heads", "tie_word_embeddings")
    config = {key: value for key, value in DEEPSEEK.items() if key not in left_out}
    models = models_of(tmp_path, config | old | elsewhere)
    assert models.dense_total == 1_346_471_936
    assert models.base.nbytes == 2 * 1_346_471_936


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_experts": 4, "num_experts_per_tok": 2},
        {"router": "linear"},
        {"router_noise": False},
        {"shared_expert": False, "num_experts_per_tok": 1},
        {"upcycled_layers": [1]},
        {"experts": "lora", "rank": 4},
        {"experts": "lora", "rank": 4, "shared_expert": False, "upcycled_layers": [1]},
    ],
    ids=["default", "4-top-2", "linear", "no-noise", "vanilla", "one-layer", "lora", "lora-one"],
)
def test_the_mixtures_size_is_the_models(settings, tmp_path):
    for name in ("llama", "llama-biases", "phi3", "starcoder2"):
        check_size(name, MoeConfig(**settings), tmp_path)


def check_size(name, settings, tmp_path):
    base = AutoConfig.for_model(name.split("-")[0], **SIZES | BACKBONES[name]).to_dict()
    config = {
        "model_type": "xft",
        "base_config": base,
        **{k: getattr(settings, k) for k in MOE_SETTINGS},
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            upcycled_config_class(base["model_type"]).from_dict(config)
        )
    models = models_of(tmp_path, base, **settings.model_dump())
    assert models.moe_total == sum(parameter.numel() for parameter in model.parameters())
    idle = sum(
        parameter[0].numel() * (models.routed - models.chosen)
        for block in model.moe_blocks
        for parameter in block.experts.parameters()
    )
    assert models.moe_total - models.moe_active == idle


# Activations, against what autograd keeps


@dataclass(frozen=True, eq=False)
class Kept:
    """What a graph of autograd holds in place of a tensor. It ends with the graph."""

    tensor: torch.Tensor


def kept_bytes(model, batch: Batch, merged: tuple = ()) -> int:
    """Bytes that a forward pass keeps for the backward pass besides weights, each tensor once."""
    weights = [*model.state_dict().values(), *merged]
    weights = {weight.untyped_storage().data_ptr() for weight in weights}
    alive = WeakSet()

    def pack(tensor):
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 97, (batch.rows, batch.length), generator=generator)
    mask = torch.ones_like(ids)
    if batch.masked:
        mask[0, -1] = 0
    labels = ids.masked_fill(mask == 0, -100)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "use_cache": False}
    options = LabelledLoss(model).options(labels)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        output = model(**inputs, **options)
    assert output.loss.requires_grad
    storages = [kept.tensor.untyped_storage() for kept in alive]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for place, size in kept.items() if place not in weights)


BATCHES = [Batch(1, 96), Batch(4, 64)]


@pytest.fixture(scope="module")
def mixture(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planning")
    return Chain(folder, {"moe": []}, base=tiny_llama)["ffn"].parent


@pytest.mark.parametrize("batch", BATCHES, ids=["one-row", "four-rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_tunings_activations_are_those_that_autograd_keeps(mixture, tiny_llama, batch, dtype):
    model = AutoModelForCausalLM.from_pretrained(mixture / "moe", dtype=dtype).train()
    models = Models(read_table(tiny_llama), MoeConfig())
    expected = activations.tuning(models, batch, Numbers(dtype.itemsize, dtype.itemsize))
    total = sum(expected.layers) + expected.ends
    assert total == pytest.approx(kept_bytes(model, batch), rel=0.02)


@pytest.mark.parametrize("rest", ["frozen", "full"])
@pytest.mark.parametrize("batch", BATCHES, ids=["one-row", "four-rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_activations_of_low_rank_experts_are_those_that_autograd_keeps(
    tiny_llama, tmp_path, batch, dtype, rest
):
    words = ["--experts", "lora", "--rank", 8]
    folder = Chain(tmp_path, {"moe": words}, base=tiny_llama)["moe"]
    settings = MoeConfig(experts="lora", rank=8, train_rest=rest)
    models = Models(read_table(tiny_llama), settings)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in models.learned)
    expected = activations.tuning(models, batch, Numbers(dtype.itemsize, dtype.itemsize))
    total = sum(expected.layers) + expected.ends
    assert total == pytest.approx(kept_bytes(model, batch), rel=0.06)


@pytest.mark.parametrize("batch", BATCHES, ids=["one-row", "four-rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_mixings_activations_are_those_that_autograd_keeps(mixture, tiny_llama, batch, dtype):
    experts = Checkpoint(mixture / "ffn")
    logits = MixingLogits(initial_logits(experts, "layer", 0.75, False)[ALPHA], None, 0.75)
    mixing = Mixing(Checkpoint(mixture / "moe"), experts, logits, dtype=dtype)
    merged = tuple(weight for _, weight in mixing._merged)
    models = Models(read_table(tiny_llama), MoeConfig())
    expected = activations.mixing(models, batch, Numbers(dtype.itemsize, dtype.itemsize))
    total = sum(expected.layers) + expected.ends
    assert total == pytest.approx(kept_bytes(mixing.model, batch, merged), rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's mappings")
@pytest.mark.parametrize("precision", ["fp32", "bf16_pure"])
def test_a_cpus_frozen_weights_stay_in_the_file_that_has_their_precision(
    mixture, tiny_llama, precision
):
    experts = Checkpoint(mixture / "ffn")
    logits = MixingLogits(initial_logits(experts, "layer", 0.75, False)[ALPHA], None, 0.75)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    mixing = Mixing(Checkpoint(mixture / "moe"), experts, logits, dtype=dtype)
    weights = [*mixing.model.parameters(), *(weight for _, weight in mixing._merged)]
    files = mapped_files()
    mapped = sum(w.nbytes for w in weights if any(w.data_ptr() in file for file in files))
    memory = mixing_memory(
        Models(read_table(tiny_llama), MoeConfig()), job(precision=precision, on_gpu=False)
    )
    assert memory.mapped == mapped
    assert memory.weights == sum(weight.nbytes for weight in weights) - mapped
    assert (mapped > 0) == (precision == "fp32")


def mapped_files() -> list[range]:
    """The addresses at which this process has files of weights mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    places = [line.split()[0].split("-") for line in lines if line.endswith(".safetensors")]
    return [range(*(int(end, 16) for end in place)) for place in places]


# Memory by strategy: the closed forms of ZeRO for P = 7,028,346,008, in GiB


def job(launch="single", processes=1, **changes) -> Job:
    settings = {
        "batch": Batch(2, 1024),
        "accumulation": 32,
        "precision": "bf16",
        "optim": "adamw_torch",
    }
    return Job(launch, processes, **settings | changes)


@pytest.mark.parametrize(
    ("launch", "processes", "optimizer", "expected"),
    [
        ("zero2", 1, "adamw_torch", 104.7),
        ("zero2", 2, "adamw_torch", 58.9),
        ("zero2", 4, "adamw_torch", 36.0),
        ("zero3", 2, "adamw_torch", 52.4),
        ("zero3", 4, "adamw_torch", 26.2),
        ("fsdp", 2, "adamw_torch", 52.4),
        ("fsdp", 4, "adamw_torch", 26.2),
        ("zero2", 1, "adafactor", 78.5),
        ("zero2", 2, "adafactor", 45.8),
        ("zero3", 2, "adafactor", 39.3),
        ("zero2", 4, "adafactor", 29.5),
        ("zero3", 4, "adafactor", 19.6),
    ],
)
def test_sharded_state_is_zeros(deepseek, launch, processes, optimizer, expected):
    memory = tuning_memory(deepseek, job(launch, processes, optim=optimizer))
    assert memory.state / GIB == pytest.approx(expected, abs=0.06)


def test_zero2_allows_for_fp32_gradients_in_the_step(deepseek):
    memory = tuning_memory(deepseek, job("zero2", 2))
    assert (memory.state + memory.step) / GIB == pytest.approx(72.0, abs=0.06)


@pytest.mark.parametrize(
    ("precision", "optimizer", "bytes_a_parameter"),
    [
        ("bf16", "adafactor", 8),
        ("bf16_pure", "adafactor", 4),
        ("bf16_pure", "adamw_torch", 8),
        ("fp32", "adamw_torch", 16),
        ("bf16", "adamw_8bit", 10),
    ],
)
def test_one_gpu_holds_the_whole_state(deepseek, precision, optimizer, bytes_a_parameter):
    memory = tuning_memory(deepseek, job(precision=precision, optim=optimizer))
    assert memory.state / deepseek.moe_total == pytest.approx(bytes_a_parameter, rel=0.01)


def test_an_offloaded_optimiser_is_in_the_hosts_memory(deepseek):
    memory = tuning_memory(deepseek, job("zero2", offload=True))
    assert memory.state / GIB == pytest.approx(26.2, abs=0.06)
    assert memory.host / GIB == pytest.approx(78.5, abs=0.06)


@pytest.mark.parametrize(
    ("average", "on_gpu", "bytes_a_parameter"),
    [("ema_decay", True, 4), ("ema_decay", False, 4), ("average_last", False, 4)]
    + [("average_last", True, 0)],
)
def test_an_average_takes_four_bytes_a_parameter(deepseek, average, on_gpu, bytes_a_parameter):
    """On a GPU the mean is in the host's memory."""
    for precision in ("bf16", "bf16_pure"):
        plain, averaged = (
            tuning_memory(deepseek, job(precision=precision, on_gpu=on_gpu, average=key))
            for key in (None, average)
        )
        assert averaged.peak - plain.peak == bytes_a_parameter * deepseek.moe_total
    written = [disk.checkpoint_bytes(deepseek, job(average=key)) for key in (None, average)]
    assert written[1] - written[0] == 3 * 4 * deepseek.moe_total


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch", "adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_optimisers_state_is_the_optimisers(mixture, tiny_llama, optimizer, dtype):
    from transformers.optimization import Adafactor

    model = AutoModelForCausalLM.from_pretrained(mixture / "moe", dtype=dtype)
    weights = list(model.parameters())
    real = {
        "adamw_torch_fused": lambda: torch.optim.AdamW(weights, fused=True),
        "adamw_torch": lambda: torch.optim.AdamW(weights),
        "adafactor": lambda: Adafactor(weights, lr=1e-3, relative_step=False),
    }[optimizer]()
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    real.step()
    held = [value for state in real.state.values() for value in state.values()]
    held = sum(value.nbytes for value in held if torch.is_tensor(value) and value.dim() > 0)
    models = Models(read_table(tiny_llama), MoeConfig())
    precision = "fp32" if dtype == torch.float32 else "bf16_pure"
    assert tuning_memory(models, job(precision=precision, optim=optimizer)).optimizer == held


def test_the_state_in_8_bits_is_bitsandbytes_s(mixture, tiny_llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(mixture / "moe", dtype=torch.float32)
    trainer = Trainer(model, TrainingArguments(tmp_path, optim="adamw_8bit", use_cpu=True))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    trainer.create_optimizer().step()
    held = {
        value.data_ptr(): value.nbytes
        for state in trainer.optimizer.state.values()
        for name, value in state.items()
        if torch.is_tensor(value) and not name.startswith("qmap")  # 2 KB, for all tensors
    }
    models = Models(read_table(tiny_llama), MoeConfig())
    memory = tuning_memory(models, job(precision="fp32", optim="adamw_8bit"))
    assert memory.optimizer == sum(held.values())


@pytest.mark.parametrize("memory_of", [tuning_memory, mixing_memory])
def test_what_saves_memory_lowers_the_peak(deepseek, memory_of):
    peak = memory_of(deepseek, job()).peak
    for changes in ({"checkpointing": True}, {"batch": Batch(1, 1024)}, {"precision": "bf16_pure"}):
        assert memory_of(deepseek, job(**changes)).peak < peak


# Disk and work


def test_disk_space_is_what_the_steps_write(mixture, tiny_llama):
    models = Models(read_table(tiny_llama), MoeConfig())
    written = {name: read_table(mixture / name).nbytes for name in ["moe"]}
    written["ffn"] = sum(Checkpoint(mixture / "ffn").get(n).nbytes for n in ffn_names(mixture))
    config = complete({"base": {"model": "x"}, "data": {"train": "x"}})
    spaces = {s.name: s.nbytes for s in disk.disk_space(models, config, job())}
    assert {name: spaces[name] for name in written} == written
    assert spaces["dense"] == models.base.nbytes
    assert disk.expert_bytes(models) == written["ffn"]


def ffn_names(mixture: Path) -> list[str]:
    return Checkpoint(mixture / "ffn").names


def test_planned_tables_follow_the_conversions(mixture, tiny_llama):
    models = Models(read_table(tiny_llama), MoeConfig())
    assert models.mixture.tensors == read_table(mixture / "moe").tensors
    planned = planned_table(extract_ffn(models.mixture), models.base)
    assert planned.names == ffn_names(mixture)


def test_work_is_six_flops_for_each_active_parameter_and_token(deepseek):
    rows = Rows(640, None)
    options = MoeSftConfig(num_train_epochs=2)
    work = compute.training_work(deepseek, job(), "moe_sft", options, rows)
    assert (work.steps, work.tokens) == (20, 1280 * 1024)
    per_token = 6 * (deepseek.moe_active - 32256 * 2048) + 3 * 2 * 1024 * 2048 * 24
    assert work.flops == work.tokens * per_token
    fewer = compute.training_work(deepseek, job(), "moe_sft", options, Rows(640, None, 0.25))
    assert work.flops - fewer.flops == work.tokens * 6 * 0.75 * 32256 * 2048
    hours = work.hours(job(), GPUS["h100"], utilisation=0.5)
    assert hours == pytest.approx(work.flops / (0.5 * 989e12) / 3600)


def test_the_flops_of_both_tunings_are_those_that_are_counted_by_hand(tmp_path):
    """Two layers, 5 experts. Three compute a token: the shared one and 2 of the 4 routed ones."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    settings = {"num_experts": 5, "num_experts_per_tok": 3}
    models = models_of(tmp_path, DEEPSEEK | sizes | heads, **settings)
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8  # q, k and v, o
    mlp, norms, head = 3 * 8 * 12, 2 * 8, 8 + 8 * 20
    router = 2 * 8 * 4 + 4 * 4  # W1, Wn, W2
    base = 2 * (attention + mlp + norms) + head
    mixture = 2 * (attention + 3 * mlp + router + norms) + head
    of_attention = 2 * 3 * 2 * 10 * 8  # layers, passes, 2 L Q
    expected = (6 * mixture + of_attention) / (6 * base + of_attention)
    assert tuning_ratio(models, 10) == expected
    factors = 2 * 3 * (2 * 16 + 2 * 12 + 3 * 20)  # layers, rank, both sizes of each matrix
    low_rank = 6 * (base + factors) - 2 * base + of_attention
    assert tuning_ratio(models, 10, lora_rank=3) == (6 * mixture + of_attention) / low_rank


@pytest.mark.parametrize(("section", "options"), [("mixing", MixingTraining), ("heal", HealConfig)])
def test_a_training_by_kl_also_takes_the_forward_pass_of_the_mixture(section, options, deepseek):
    by_entropy, by_kl = (
        compute.training_work(
            deepseek, job(), section, options(max_steps=5, objective=objective), Rows(None, None)
        )
        for objective in ("ce", "kl")
    )
    per_token = 2 * (deepseek.moe_active - 32256 * 2048) + 2 * 1024 * 2048 * 24
    assert by_kl.flops - by_entropy.flops == by_entropy.tokens * per_token


@pytest.mark.parametrize("lora_rank", [None, 8])
def test_plain_tuning_takes_fewer_flops_by_the_ratio_of_both_tunings(lora_rank, deepseek):
    mixture, dense = (
        compute.training_work(deepseek, job(), section, options, Rows(640, None))
        for section, options in (
            ("moe_sft", MoeSftConfig()),
            ("sft", SftConfig(lora_rank=lora_rank)),
        )
    )
    assert dense.tokens == mixture.tokens
    assert mixture.flops / dense.flops == tuning_ratio(deepseek, 1024, lora_rank)
    options = SftConfig(lora_rank=lora_rank)
    fewer = compute.training_work(deepseek, job(), "sft", options, Rows(640, None, 0.25))
    for_a_weight = 6 if lora_rank is None else 4  # a frozen one has no gradient
    assert dense.flops - fewer.flops == dense.tokens * for_a_weight * 0.75 * 32256 * 2048


def test_steps_and_processes_give_the_rows(deepseek):
    options = MixingTraining(num_train_epochs=2, max_steps=5)
    work = compute.training_work(deepseek, job("ddp", 4), "mixing", options, Rows(None, None))
    assert work.tokens == 5 * 2 * 32 * 4 * 1024
    options = MixingTraining(num_train_epochs=2)
    assert compute.training_work(deepseek, job(), "mixing", options, Rows(None, None)) is None


def test_generation_takes_flops_for_each_token_and_the_weights_for_each_step(deepseek):
    """150 problems in batches of 16 are 10 batches, and each token of a batch is a step."""
    options = EvaluationConfig(max_new_tokens=200)
    gpu = Gpu(memory=80, bf16=1e14, fp32=1e12, bandwidth=1e12, layer_seconds=1e-3)
    tokens, steps = 150 * (512 + 200), 10 * 200

    def seconds(mixture: bool, processor: Gpu) -> float:
        return compute.generation_seconds(deepseek, mixture, 150, options, processor, 0.25)

    for mixture, active, stored in (
        (False, deepseek.dense_total, deepseek.base.nbytes),
        (True, deepseek.moe_active, deepseek.mixture.nbytes),
    ):
        expected = 2 * active * tokens / 0.25e14 + steps * (stored / 1e12 + 24e-3)
        assert seconds(mixture, gpu) == pytest.approx(expected)
    in_fp32 = steps * 4 * deepseek.dense_total / 10e9
    on_cpu = 2 * deepseek.dense_total * tokens / (0.25 * 50e9) + in_fp32
    assert seconds(False, cpu(50e9)) == pytest.approx(on_cpu)


def test_a_cpu_is_as_fast_as_the_fastest_product(monkeypatch):
    """By a clock on which a product takes 1 s, then 0.5 s, and 0.25 s thereafter."""
    ends = iter([1.0, 0.5, *[0.25] * 9])
    now = [0.0]

    def product(left, right):
        assert (left.shape, right.shape, left.dtype) == ((256, 32), (32, 48), torch.bfloat16)
        now[0] += next(ends)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: now[0])
    flops = calibration.product_flops(5000, 32, 48, "bf16", threads=1)
    assert flops == 2 * 256 * 32 * 48 / 0.25


def test_the_share_of_labelled_tokens_is_that_of_the_responses_bytes(tmp_path):
    """Of 9 and 5 bytes, each with a line break, a chat template trains on 6 and 2."""
    file = tmp_path / "rows.jsonl"
    lines = [{"instruction": "ab", "response": answer} for answer in ("abcdef", "é")]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig(train=str(file), template="chat")
    assert find_rows(data, None) == Rows(2, 7 / 3.3, 8 / 14)
    elsewhere = data.model_copy(update={"train": "nowhere.jsonl"})
    assert find_rows(elsewhere, 7) == Rows(7, None, 1)


def test_problems_are_counted(tmp_path):
    file = tmp_path / "own.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n{}\n\n{}\n"))
    known = ["humaneval", "mbpp", str(file)]
    assert count_problems(EvaluationConfig(datasets=known)) == 164 + 378 + 3
    assert count_problems(EvaluationConfig(datasets=known, limit=100)) == 100 + 100 + 3
    assert count_problems(EvaluationConfig(datasets=["nowhere.jsonl"])) is None


# Advice


@pytest.mark.parametrize(
    ("gpu", "the_job", "expected"),
    [
        ("h200", job(optim="adafactor"), "single, 2 rows at once"),
        ("h100", job(optim="adafactor"), "single + activation_checkpointing, 2 rows at once"),
        ("h100", job("ddp", 4), "zero2, 2 rows at once"),
        ("a100-40", job("ddp", 8), "fsdp, 2 rows at once"),
        ("h200", job("ddp", 8, optim="adafactor"), "ddp, 2 rows at once"),
    ],
)
def test_the_first_strategy_that_fits_is_advised(deepseek, gpu, the_job, expected):
    advice = strategy.advise(deepseek, the_job, GPUS[gpu])
    assert strategy.name_of(advice.job) == expected
    assert advice.memory.peak <= GPUS[gpu].room(advice.job.processes)
    rows = [one.batch.rows * one.accumulation for one in (advice.job, the_job)]
    assert rows[0] == rows[1]


def test_too_small_a_gpu_is_told_how_many_it_takes(deepseek):
    advice = strategy.advise(deepseek, job(), GPUS["rtx4090"])
    assert advice.job is None
    assert advice.reason.startswith("none fits; use at least ")
    assert "launch zero3 and activation_checkpointing" in advice.reason


def test_what_shards_exclude_is_changed_in_the_advice(deepseek):
    pure = job("ddp", 8, optim="adafactor", precision="bf16_pure")
    advice = strategy.advise(deepseek, pure, GPUS["rtx4090"])
    assert advice.job is None
    assert "launch zero3, optim adamw_torch_fused, precision bf16 and" in advice.reason


def test_shards_are_not_advised_for_an_average_that_they_exclude(deepseek):
    advice = strategy.advise(deepseek, job("ddp", 8, average="average_last"), GPUS["a100-40"])
    assert advice.job.launch.startswith("zero")
    advice = strategy.advise(deepseek, job("ddp", 8, average="ema_decay"), GPUS["a100-40"])
    assert (advice.job, advice.reason) == (None, "none fits, on any number of these GPUs")


# The step


@pytest.fixture
def project(tmp_path, tiny_llama, monkeypatch):
    """A working folder with a configuration of the tiny model."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"instruction": "Add.", "response": "a + b"}\n' * 3)
    config = {"base": {"model": str(tiny_llama)}, "data": {"train": "rows.jsonl"}}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_local_weights_need_neither_torch_nor_transformers(project, repository, run_python):
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(repository)!r}); os.chdir({str(project)!r})\n"
        "from workflow_scripts import plan\n"
        "plan.main(['--config', 'mine.yaml', '--gpu', 'h100', '--gpus', '2'])\n"
        "print('MODULES', *sys.modules)\n"
    )
    text, _, modules = run_python(code).partition("MODULES")
    assert {"torch", "transformers", "accelerate"} & set(modules.split()) == set()
    parts = (
        "Parameters",
        "Tokens",
        "Memory",
        "Strategy on 2 x h100",
        "Hours",
        "Evaluation",
        "Disk",
    )
    for part in parts:
        assert part in text
    assert max(map(len, text.splitlines())) <= 110
    assert "3 rows of about" in text


def test_on_a_cpu_hours_come_from_a_product_that_is_timed(project, capsys, monkeypatch):
    timed = []

    def product_flops(*arguments):
        timed.append(arguments)
        return 1e6

    monkeypatch.setattr(report, "product_flops", product_flops)
    plan.main(["--config", "mine.yaml"])
    text = capsys.readouterr().out
    assert timed == [(8 * 1024, 32, 48, "fp32", 1)]
    args = plan._parser().parse_args(["--config", "mine.yaml"])
    made = plan.make_plan(args)
    jobs = zip(made.works, (made.tuning, made.mixing), strict=True)
    hours = [work.hours(job, cpu(1e6), 0.5) for work, job in jobs]
    assert re.search(rf"  step 2 +{hours[0]:,.1f}\n  step 6, each lambda +{hours[1]:,.1f}\n", text)
    ratio = tuning_ratio(made.models, 1024)
    assert f"a token of step 2 takes {ratio:.2f} times the FLOPs of one of sft" in text
    assert "Evaluation, hours at most: 164 problems" in text
    assert re.search(r"  base +\d[\d,.]+\n  moe_sft +\d[\d,.]+\n  dense, each lambda +\d", text)


def test_the_demonstrations_config_lies_under_no_file(project, capsys):
    Path("config.yaml").write_text("moe: {num_experts: 4, num_experts_per_tok: 2}\n")
    args = plan._parser().parse_args(["--config", "mine.yaml"])
    assert plan.make_plan(args).models.moe == MoeConfig()


def test_each_file_lies_over_the_one_before(project, capsys):
    Path("more.yaml").write_text("moe: {num_experts: 4, num_experts_per_tok: 3}\n")
    Path("fewer.yaml").write_text("moe: {num_experts_per_tok: 2}\nseeds: [1, 2]\n")
    words = ["--config", "mine.yaml", "more.yaml", "fewer.yaml"]
    plan.main(words)
    assert "All 2 runs together" in capsys.readouterr().out
    models = plan.make_plan(plan._parser().parse_args(words)).models
    assert models.moe == MoeConfig(num_experts=4, num_experts_per_tok=2)


def test_a_mixture_that_cannot_be_merged_has_no_later_steps(project, capsys):
    config = yaml.safe_load(Path("mine.yaml").read_text())
    config |= {"moe": {"shared_expert": False}, "evaluation": {"models": ["base"]}}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    plan.main(["--config", "mine.yaml", "--gpu", "h100"])
    text = capsys.readouterr().out
    assert "step 6" not in text and "ffn" not in text


@pytest.mark.parametrize(("keep", "dense", "best"), [("all", 4, 0), ("best", 0, 2)])
def test_what_runs_share_counts_once(project, capsys, keep, dense, best):
    config = yaml.safe_load(Path("mine.yaml").read_text())
    config |= {"seeds": [42, 43], "merge": {"keep": keep}}
    config["variants"] = {"xft": {}, "stock": {"merge": {"method": "model_stock"}}}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    plan.main(["--config", "mine.yaml", "--gpu", "h100"])
    table = capsys.readouterr().out.partition("All 4 runs together")[2]
    rows = [line.split() for line in table.splitlines() if re.match(r"  \w+ +\d", line)]
    jobs = {rule: int(number) for rule, number, *_ in rows}
    expected = {"base": 1, "tokens": 1, "moe_sft": 2, "weighted_trained": 2, "dense": 4}
    assert {rule: jobs[rule] for rule in expected} == expected
    assert jobs.get("best", 0) == best
    assert jobs.pop("all") == sum(jobs.values())


OFFLINE = {"base": {"model": "org/name", "revision": "0" * 40}, "data": {"train": "rows.jsonl"}}


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ("base: [", "", "mine.yaml, line 1, column 8, is not valid YAML: expected the node"),
        ("[]", "", "mine.yaml holds no configuration"),
        ("nonsense: 1", "", "mine.yaml: nonsense is not a known key"),
        (yaml.safe_dump(OFFLINE), "", "name the model's config.json, a small file, with"),
        (yaml.safe_dump(OFFLINE), "--model-config nowhere", "nowhere is missing"),
        (yaml.safe_dump(OFFLINE), "--model-config empty.json", "has no whole number for hidden"),
        (yaml.safe_dump(OFFLINE), "--model-config new.json", "model type 'new' is unknown to"),
        (yaml.safe_dump(OFFLINE), "--model-config bad.json", "cannot build the model: KeyError"),
        (yaml.safe_dump(OFFLINE), "--mfu 3", "--mfu = 3: must be greater than 0"),
    ],
)
def test_a_users_mistake_ends_in_one_message(project, config, words, message, call_step):
    Path("mine.yaml").write_text(config)
    Path("empty.json").write_text("{}")
    Path("new.json").write_text(json.dumps(DEEPSEEK | {"model_type": "new"}))
    Path("bad.json").write_text(json.dumps(DEEPSEEK | {"hidden_act": "nonsense"}))
    done = call_step("plan", "--config", "mine.yaml", *words.split(), cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("plan: error: ") and message in done.stderr


def test_a_missing_config_is_named(project, call_step):
    done = call_step("plan", "--config", "nowhere.yaml", cwd=project)
    assert done.stderr == "plan: error: there is no file nowhere.yaml\n"


def test_every_recipe_is_planned(repository):
    """But the demonstration, whose model comes along, and what lies over other configs."""
    files = {file.stem for file in (repository / "recipes").glob("*.yaml")}
    assert files == RECIPES.keys() | {"embedded", "ablations", "regimes", "little_data", "low_rank"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_headers_hold_the_plans_figures(name, repository, tmp_path, monkeypatch):
    config, parameters = RECIPES[name]
    gpu = "rtx4090" if name in SMALL_GPU else "h100"
    words = [] if name in ON_CPU else ["--rows=110000", f"--gpu={gpu}"]
    monkeypatch.chdir(repository)
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = Path("recipes") / f"{name}.yaml"
    words = [f"--config={file}", f"--model-config={tmp_path / 'config.json'}", *words]
    lines = summary(plan.make_plan(plan._parser().parse_args(words)))
    assert lines[0] == f"dense {parameters:,} parameters"
    assert "".join(f"#   {line}\n" for line in lines) in file.read_text()


# Low-rank experts


LOW_RANK = {"experts": "lora", "rank": 4, "num_experts": 5, "num_experts_per_tok": 3}


@pytest.mark.parametrize("name", ["llama", "llama-biases", "phi3", "starcoder2"])
def test_low_rank_tables_follow_the_conversions(name, tmp_path):
    base = save_base(name, tmp_path / "base")
    words = ["--experts", "lora", "--rank", 4, "--num-experts", 5, "--num-experts-per-tok", 3]
    chain = Chain(tmp_path, {"moe": words}, base=base)
    models = Models(read_table(base), MoeConfig(**LOW_RANK))
    assert models.mixture.tensors == read_table(chain["moe"]).tensors
    made = Checkpoint(chain["ffn"])
    factors = sum(made.get(name).nbytes for name in made.names)
    assert planned_table(extract_ffn(models.mixture), models.base).nbytes == factors
    assert models.expert * 5 * 4 == factors
    shared = sum(t.nbytes for n, t in load_file(base / SINGLE_FILE).items() if ".mlp." in n)
    assert disk.expert_bytes(models) == factors + shared


@pytest.mark.parametrize(
    ("rest", "learned", "added"),
    [("frozen", 0, 0), ("lora", 0, 1), ("full", 1, 0)],
)
def test_what_low_rank_experts_learn_is_counted_by_hand(tmp_path, rest, learned, added):
    """Two layers, 5 experts of rank 4. Three compute a token."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    models = models_of(tmp_path, DEEPSEEK | sizes | heads, **LOW_RANK, train_rest=rest)
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8  # q, k and v, o
    factors_of_attention = 4 * (8 + 8 + 2 * (8 + 4) + 8 + 8)
    mlp, norms, head, embedding = 3 * 8 * 12, 2 * 8, 8 + 8 * 20, 8 * 20
    expert, router = 4 * 3 * (8 + 12), 2 * 8 * 4 + 4 * 4
    outside = 2 * (attention + norms) + head
    inside = 2 * (5 * expert + router)
    assert models.moe_total == outside + embedding + 2 * mlp + inside
    more = learned * (outside + embedding) + added * 2 * factors_of_attention
    assert models.learned_total == inside + more
    computing = outside + 2 * (mlp + 3 * expert + router) + added * 2 * factors_of_attention
    frozen = 2 * mlp + (1 - learned) * outside
    of_attention = 2 * 3 * 2 * 10 * 8  # layers, passes, 2 L Q
    expected = 6 * computing - 2 * frozen + of_attention
    dense = 6 * (outside + 2 * mlp) + of_attention
    assert tuning_ratio(models, 10) == expected / dense


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "adamw_8bit"])
def test_only_what_learns_has_gradients_and_an_optimiser(deepseek, tmp_path, optimizer):
    low = {"experts": "lora", "rank": 64}
    models = models_of(tmp_path, DEEPSEEK, **low)
    the_job = job(optim=optimizer)
    memory = tuning_memory(models, the_job)
    assert models.learned_total == 24 * (8 * 64 * 3 * (2048 + 5504) + 2 * 7 * 2048 + 7 * 7)
    assert memory.weights == 4 * models.moe_total
    assert memory.gradients == 4 * models.learned_total
    assert memory.optimizer <= 8 * models.learned_total
    assert memory.peak <= GPUS["rtx4090"].room(1) < tuning_memory(deepseek, the_job).peak
    state = 4 * models.learned_total + memory.optimizer
    assert disk.checkpoint_bytes(models, the_job) == 3 * state


@pytest.mark.parametrize(
    ("launch", "weight", "parts", "master", "frozen_in_checkpoint"),
    [("zero2", 2, 1, 4, 2 * 2), ("zero3", 2, 4, 4, 2), ("fsdp", 4, 4, 0, 4)],
)
def test_four_processes_share_the_state_of_what_learns(
    tmp_path, launch, weight, parts, master, frozen_in_checkpoint
):
    """Bytes of a parameter: of its weight, its master weight, and Adam's state, 8. zero3 and fsdp
    split the frozen weights too. A checkpoint has all weights, of zero2 the frozen ones twice.
    """
    models = models_of(tmp_path, DEEPSEEK, experts="lora", rank=64)
    the_job = job(launch, 4)
    memory = tuning_memory(models, the_job)
    total, learned = models.moe_total, models.learned_total
    assert memory.weights == weight * total // parts
    assert memory.gradients == weight * learned // 4
    assert memory.master == master * learned // 4
    assert memory.optimizer == 8 * learned // 4
    state = (weight + master + 8) * learned + frozen_in_checkpoint * (total - learned)
    assert disk.checkpoint_bytes(models, the_job) == 3 * state


def test_the_baselines_of_low_rank_experts_are_whole(deepseek, tmp_path):
    """All weights of the dense model learn in sft, with experts of any form."""
    config = complete(
        {"base": {"model": "x"}, "data": {"train": "x"}, "evaluation": {"models": ["sft"]}}
    )
    spaces = [
        {s.name: s.nbytes for s in disk.disk_space(models, config, job())}
        for models in (deepseek, models_of(tmp_path, DEEPSEEK, experts="lora"))
    ]
    for name in ("checkpoints of sft", "sft"):
        assert spaces[0][name] == spaces[1][name]


def test_a_rank_that_is_too_large_is_refused_by_the_plan(project, call_step):
    config = yaml.safe_load(Path("mine.yaml").read_text()) | {
        "moe": {"experts": "lora", "rank": 33}
    }
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    done = call_step("plan", "--config", "mine.yaml", "--gpu", "h100", cwd=project)
    assert done.returncode == 1 and "moe.rank = 33: " in done.stderr
