"""Plans: parameters, memory, disk and work, against real models, real files and closed forms. And
what steps ask a scheduler for.
"""

import gzip
import json
import math
import os
import re
import struct
import tomllib
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
import yaml
from backbones import random_dense, save_base, small_config
from chains import Chain
from interpreter import python
from mixtures import init_example
from transformers import AutoModelForCausalLM

from xft.checkpoints.model_files import DTYPE_BYTES
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.config.reading import complete
from xft.config.runs import find_runs, overlaid
from xft.config.sections import TRAINING, EvaluationConfig, MoeConfig, MoeSftTraining, SftTraining
from xft.config.steps import TRAINING_SECTIONS
from xft.conversions.upcycle import upcycled_config
from xft.dag.job_resources import Requests
from xft.dag.totals import Totals, totals
from xft.estimates import memory_and_disk
from xft.estimates.generation_memory import generation_memory
from xft.estimates.jobs import (
    GPUS,
    Processor,
    TrainingJob,
    configured_job,
    generation_seconds,
    training_work,
)
from xft.estimates.memory_and_disk import CUDA, RUNTIME, activation_bytes, training_memory
from xft.estimates.model_sizes import Models, compute_table, read_table, tuning_ratio
from xft.estimates.planning import Estimate, advice, fits, summary, time_text, ways
from xft.estimates.rows import Lengths, count_problems
from xft.hub.named_sets import Release
from xft.modeling.configuration import XftConfig
from xft.reporting.page.folder import Folder
from xft.tools import plan
from xft.training.losses import LabelledLoss

BASES = tomllib.loads(Path(__file__).with_name("bases.toml").read_text())
DEEPSEEK = BASES["deepseek-coder-1.3b"]["config"]
LOW_RANK = {"experts": "lora", "rank": 4, "num_experts": 5, "num_experts_per_tok": 3}


def models_of(folder: Path, config: dict, **changes) -> Models:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return Models(compute_table(file), MoeConfig(**changes))


@pytest.fixture
def deepseek(tmp_path) -> Models:
    return models_of(tmp_path, DEEPSEEK)


def job(section="moe_sft", launch="single", processes=1, on_gpu=True, length=1024, **options):
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 32}
    values |= {"optim": "adamw_torch", "launch": launch, "processes": processes} | options
    return TrainingJob(section, TRAINING[section](**values), length, launch, processes, on_gpu)


def model_of(backbone: str, moe: MoeConfig, dtype=torch.float32, **sizes):
    """A random mixture, with its base's config."""
    base = small_config(backbone, **sizes).to_dict()
    config = XftConfig.from_dict(upcycled_config(base, moe, "float32"))
    return AutoModelForCausalLM.from_config(config, dtype=dtype), base


# Parameters


TIES = [("llama", True), ("llama-biases", False), ("phi3", True), ("gpt_neox", False)]


@pytest.mark.parametrize(("name", "is_tied"), TIES)
def test_headers_and_config_agree(name, is_tied, tmp_path):
    model = random_dense(name, tie_word_embeddings=is_tied)
    model.save_pretrained(tmp_path)
    headers, computed = read_table(tmp_path), compute_table(tmp_path / "config.json")
    # The files of GPT-NeoX keep an old name of the output layer.
    names = {name: name.replace("embed_out", "lm_head") for name in headers.names}
    assert {names[name]: headers.tensors[name] for name in names} == computed.tensors
    assert headers.embedding == computed.embedding
    for table in (headers, computed):
        assert sum(table.parameters.values()) == model.num_parameters()
        assert table.is_tied == model.config.tie_word_embeddings


def test_an_old_configs_keys_are_read(tmp_path):
    """As transformers 4 wrote them, and with code and kernels that are not on this machine."""
    old = {"rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"}
    elsewhere = {"auto_map": {"AutoConfig": "a--b.C"}, "attn_implementation": "flash_attention_2"}
    left_out = ("num_key_value_heads", "tie_word_embeddings")
    config = {key: value for key, value in DEEPSEEK.items() if key not in left_out}
    models = models_of(tmp_path, config | old | elsewhere)
    assert models.dense_total == 1_346_471_936
    assert models.base.nbytes == 2 * 1_346_471_936


def test_the_mixtures_size_is_the_models(tmp_path):
    for name, settings in (
        ("llama", {"num_experts": 4, "num_experts_per_tok": 2, "upcycled_layers": [1]}),
        ("llama-biases", {"router": "linear", "router_noise": False}),
        ("starcoder2", {"shared_expert": False, "num_experts_per_tok": 1}),
        ("phi3", LOW_RANK),
        ("llama", LOW_RANK | {"shared_expert": False, "upcycled_layers": [1]}),
    ):
        moe = MoeConfig(**settings)
        model, base = model_of(name, moe)
        models = models_of(tmp_path, base, **settings)
        assert models.moe_total == model.num_parameters()
        experts = [own for block in model.moe_blocks for own in block.experts.parameters()]
        idle = (moe.num_experts - moe.num_experts_per_tok) * sum(w[0].numel() for w in experts)
        assert models.moe_total - models.moe_active == idle


@pytest.mark.parametrize("settings", [{"num_experts": 5, "num_experts_per_tok": 3}, LOW_RANK])
def test_disk_space_is_what_the_steps_write(settings, tmp_path):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    base = save_base("llama-biases", tmp_path / "base")
    chain = Chain(tmp_path, {"moe": words}, base=base)
    models = Models(read_table(base), MoeConfig(**settings))
    assert models.mixture.tensors == read_table(chain["moe"]).tensors
    ffn = Checkpoint(chain["ffn"])
    own = sum(ffn.get(name).nbytes for name in ffn.names)
    steps = ("moe", "moe_sft", "sft", "dense", "ffn")
    spaces = [memory_and_disk.artifact_bytes(models, step) for step in steps]
    mixture, base = read_table(chain["moe"]).nbytes, models.base.nbytes
    assert spaces == [mixture, mixture, base, base, 0]
    assert models.expert_bytes == own + 4 * models.is_low_rank * models.ffn


# Floating-point operations


def counted_by_hand(tmp_path, **settings) -> tuple[Models, dict[str, int]]:
    """Two layers of a small Llama, and the numbers of its parameters by part."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    models = models_of(tmp_path, DEEPSEEK | sizes | heads, **settings)
    parts = {"attention": 8 * 8 + 2 * 8 * 4 + 8 * 8, "mlp": 3 * 8 * 12, "norms": 2 * 8}
    parts |= {"head": 8 + 8 * 20, "router": 2 * 8 * 4 + 4 * 4}  # W1, Wn, W2 of four experts
    return models, parts | {"passes": 2 * 3 * 2 * 10 * 8}  # layers, passes, 2 L Q


def test_the_flops_of_both_tunings_are_those_that_are_counted_by_hand(tmp_path):
    """5 experts. Three compute a token: the shared one and 2 of the 4 routed ones."""
    models, n = counted_by_hand(tmp_path, num_experts=5, num_experts_per_tok=3)
    base = 2 * (n["attention"] + n["mlp"] + n["norms"]) + n["head"]
    mixture = base + 2 * (2 * n["mlp"] + n["router"])
    tuned = 6 * mixture + n["passes"]
    assert tuning_ratio(models, 10, SftTraining()) == tuned / (6 * base + n["passes"])
    factors = 2 * 3 * (2 * 16 + 2 * 12 + 3 * 20)  # layers, rank, both sizes of each matrix
    low_rank = 6 * (base + factors) - 2 * base + n["passes"]
    assert tuning_ratio(models, 10, SftTraining(lora_rank=3)) == tuned / low_rank


@pytest.mark.parametrize("rest", ["frozen", "lora", "full"])
def test_what_low_rank_experts_learn_is_counted_by_hand(tmp_path, rest):
    """Two layers, 5 experts of rank 4. Three compute a token."""
    models, n = counted_by_hand(tmp_path, **LOW_RANK, train_rest=rest)
    learned, added = rest == "full", rest == "lora"
    factors = added * 2 * 4 * (8 + 8 + 2 * (8 + 4) + 8 + 8)  # of the attention
    expert, embedding = 4 * 3 * (8 + 12), 8 * 20
    outside = 2 * (n["attention"] + n["norms"]) + n["head"]
    inside = 2 * (5 * expert + n["router"])
    assert models.moe_total == outside + embedding + 2 * n["mlp"] + inside
    trained = inside + learned * (outside + embedding) + factors
    assert models.trained(MoeSftTraining()).learned == trained
    computing = outside + 2 * (n["mlp"] + 3 * expert + n["router"]) + factors
    frozen = 2 * n["mlp"] + (1 - learned) * outside
    expected = 6 * computing - 2 * frozen + n["passes"]
    dense = 6 * (outside + 2 * n["mlp"]) + n["passes"]
    assert tuning_ratio(models, 10, SftTraining()) == expected / dense


def test_work_is_flops_for_each_token(deepseek):
    done = training_work(deepseek, job(num_train_epochs=2), 640)
    assert (done.steps, done.tokens) == (20, 1280 * 1024)
    attention = 2 * 1024 * 2048 * 24
    assert done.flops == done.tokens * (6 * (deepseek.moe_active - 32256 * 2048) + 3 * attention)
    again = training_work(deepseek, job(num_train_epochs=2, activation_checkpointing=True), 640)
    body = deepseek.moe_active - 2 * 32256 * 2048
    assert again.flops - done.flops == done.tokens * (2 * body + attention)
    hours = done.hours(job(), GPUS["h100"].reached(0.5))
    assert hours == pytest.approx(done.flops / (0.5 * 989e12) / 3600)
    dense = training_work(deepseek, job("sft", num_train_epochs=2), 640)
    assert done.flops / dense.flops == tuning_ratio(deepseek, 1024, SftTraining())
    stated = training_work(deepseek, job("mixing", "ddp", 4, max_steps=5), None)
    assert stated.tokens == 5 * 2 * 32 * 4 * 1024
    assert training_work(deepseek, job(), None) is None


@pytest.mark.parametrize(
    ("options", "solutions", "batches"),
    [({}, 150, 10), ({"batch_size": 64}, 150, 3), ({"samples": 3, "temperature": 1}, 450, 29)],
)
def test_generation_takes_flops_for_each_token_and_the_weights_for_each_step(
    deepseek, options, solutions, batches
):
    """Of 150 problems, in batches of 16. Each token of a batch is a step."""
    options = EvaluationConfig(max_new_tokens=200, **options)
    gpu = Processor(bf16=1e14, fp32=1e12, bandwidth=1e12, memory=80, layer_seconds=1e-3)
    tokens, steps = solutions * (512 + 200), batches * 200
    of_dense = False, deepseek.dense_total, deepseek.base.nbytes
    of_mixture = True, deepseek.moe_active, deepseek.mixture.nbytes
    for mixture, active, stored in (of_dense, of_mixture):
        expected = 2 * active * tokens / 1e14 + steps * (stored / 1e12 + 24e-3)
        assert generation_seconds(deepseek, mixture, 150, options, gpu) == pytest.approx(expected)
    expected = deepseek.dense_total * (2 * tokens / 50e9 + 4 * steps / 10e9)
    cpu = Processor(50e9, 50e9)
    assert generation_seconds(deepseek, False, 150, options, cpu) == pytest.approx(expected)


def test_problems_are_counted(tmp_path):
    file = tmp_path / "own.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n{}\n\n{}\n"))
    known = ["humaneval", "mbpp", str(file), "nowhere.jsonl"]
    assert [count_problems(name, None) for name in known] == [164, 378, 3, None]
    assert [count_problems(name, 100) for name in known] == [100, 100, 3, None]


# Rows as they are


@pytest.mark.parametrize("section", TRAINING_SECTIONS.values())
def test_rows_of_a_third_of_the_window_are_planned_like_those_of_such_a_window(section, deepseek):
    """And half of the rows in a batch of two is padding, unless they are packed."""
    keys = {"max_steps": 20, "per_device_train_batch_size": 2}
    expected = job(section, length=1200, **keys).with_rows(Lengths(np.full(50, 400), 640))
    of_window = job(section, length=400, **keys)
    assert training_memory(deepseek, expected) == training_memory(deepseek, of_window)
    assert training_work(deepseek, expected, 640) == training_work(deepseek, of_window, None)
    uneven = Lengths(np.tile([100, 1100], 50), None)
    for batching, mean in (("padded", 850), ("by_length", 600), ("packed", 600)):
        made = job(section, length=1200, batching=batching, **keys).with_rows(uneven)
        tokens = training_work(deepseek, made, None).tokens / (20 * 2 * 32)
        assert (tokens, made.tokens) == (pytest.approx(mean, rel=0.04), 2200)


@pytest.mark.parametrize("section", TRAINING_SECTIONS.values())
def test_packed_rows_take_the_flops_that_each_takes_alone(section, deepseek):
    """No row sees another one: as many short and long ones take as much as apart."""

    def flops(*lengths: int) -> float:
        keys = {"max_steps": 20, "per_device_train_batch_size": 2, "batching": "packed"}
        rows = Lengths(np.tile(lengths, 50), None)
        return training_work(
            deepseek, job(section, length=4000, **keys).with_rows(rows), None
        ).flops

    assert 2 * flops(100, 3900) == pytest.approx(flops(100) + flops(3900))


def test_the_plan_of_what_ran_has_no_unknown_figures(finished, monkeypatch, capsys):
    """The hours are those that its jobs took. Another training takes as long in proportion.

    A job's costs have the memory that was expected by a sample of rows, before there were tokens.
    """
    monkeypatch.chdir(finished.folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = overlaid(yaml.safe_load(Path("config.yaml").read_text()), finished.overlay)
    write_config(config)
    plan.main([*MINE, "--details"])
    text = capsys.readouterr().out
    assert "?" not in text and "at most: tokens" in text
    assert re.search(r"\nFinished: (\d+) of \1 jobs\.", text)
    costs = [json.loads(file.read_text()) for file in Path("store").glob("*/*/costs.json")]
    minutes = sum(attempt["seconds"] for cost in costs for attempt in cost["attempts"]) / 60
    assert re.search(f"Time: {max(minutes, 1):.0f} minutes?, for all", text)
    assert time_text(1 / 60, 1 / 20) == "1 minute, at most 3"
    cost = json.loads(Path("results/costs/moe_sft.costs.json").read_text())
    hours = cost["attempts"][0]["seconds"] / 3600
    assert cost["expected"]["memory_gib"] == round(planned().peak("moe_sft", True) / 2**30, 3)
    assert planned().training_hours("moe_sft", True) == pytest.approx(hours)
    works = {name: planned().work(name, True).flops for name in ("moe_sft", "mixing")}
    works["dense 0.75"] = works["moe_sft"] + works.pop("mixing")
    flops = Folder(Path("results")).costs.flops  # by what the artifacts say of themselves
    assert flops == {(name, ""): value for name, value in works.items()} | {("base", ""): 0}
    write_config(overlaid(config, {"moe_sft": {"max_steps": 30}}))
    assert planned().training_hours("moe_sft", True) == pytest.approx(10 * hours, rel=0.05)
    stated = planned("--flops", "1e6")  # a speed of the user's counts before what was measured
    flops = stated.work("moe_sft", True).flops
    assert stated.training_hours("moe_sft", True) == pytest.approx(flops / 1e6 / 3600)
    write_config(overlaid(config, {"threads": 2}))  # no job had two
    assert planned().training_hours("moe_sft", True) is None


def test_memory_that_was_measured_on_a_gpu_counts(finished_copy, monkeypatch, capsys):
    """The plan of what ran has what it took, another one as large a share of its estimate.

    The highest figure only rises.
    """
    monkeypatch.chdir(finished_copy.folder)
    monkeypatch.setattr(plan, "this_gpu", lambda: ("h100", GPUS["h100"]))
    config = yaml.safe_load(Path("config.yaml").read_text()) | {"gpus": 1}
    config = overlaid(config, finished_copy.overlay)
    write_config(config)
    computed, highest = (planned().peak("moe_sft", expected) for expected in (True, False))
    larger = overlaid(config, {"moe_sft": {"per_device_train_batch_size": 8}})
    write_config(larger)
    computed_larger = planned().peak("moe_sft", True)

    def write_peaks(allocated: float, reserved: float) -> None:
        took = {"gpu_allocated_gib": allocated, "gpu_reserved_gib": reserved}
        for file in Path("store/moe_sft").glob("*/costs.json"):
            cost = json.loads(file.read_text())
            cost["attempts"][-1] |= took
            file.write_text(json.dumps(cost))

    write_peaks(2.5, 3.0)
    found = planned().peak("moe_sft", True)
    measured = 3 * 2**30 + CUDA
    assert found == pytest.approx(computed_larger * measured / computed)
    write_config(config)
    assert planned().peak("moe_sft", True) == measured
    assert planned().peak("moe_sft") == pytest.approx(measured / computed * highest)
    assert planned().peak("mixing") == planned("--gpu", "h100").peak("mixing")
    plan.main([*MINE, "--details"])
    told = "moe_sft before: 2.5 GiB allocated and 3.0 GiB reserved by torch, 3.9 GiB with the"
    assert told in capsys.readouterr().out
    write_peaks(0, 0)
    assert planned().peak("moe_sft", True) == CUDA < computed
    assert planned().peak("moe_sft") == highest


# Memory


def kept_bytes(model, rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for the backward pass besides weights, each tensor once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}
    alive = WeakSet()

    def pack(tensor):
        alive.add(kept := lambda: tensor)  # it ends with the graph
        return kept

    ids = torch.randint(3, 97, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    labels = ids.masked_fill(mask == 0, -100)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept()):
        given = {"input_ids": ids, "attention_mask": mask, "labels": labels, "use_cache": False}
        output = model(**given, **LabelledLoss(model).options(labels))
    assert output.loss.requires_grad
    storages = [kept().untyped_storage() for kept in alive]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for place, size in kept.items() if place not in weights)


def test_activations_are_about_those_that_autograd_keeps(tmp_path):
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 16}
    for settings, dtype, precision in (
        ({}, torch.bfloat16, "bf16_pure"),
        ({"upcycled_layers": list(range(8))}, torch.float32, "fp32"),
        ({"experts": "lora", "rank": 8, "train_rest": "full"}, torch.bfloat16, "bf16_pure"),
    ):
        model, base = model_of("llama", MoeConfig(**settings), dtype, **sizes)
        models = models_of(tmp_path, base, **settings)
        the_job = job(length=64, precision=precision, per_device_train_batch_size=4, on_gpu=False)
        expected = kept_bytes(model.train(), 4, 64)
        assert activation_bytes(models, the_job)[0] == pytest.approx(expected, rel=0.25)


def test_the_state_of_a_process(deepseek):
    for launch, processes, options, bytes_a_parameter in (
        ("zero2", 4, {}, 2 + 14 / 4),
        ("zero3", 4, {}, 16 / 4),
        ("fsdp", 2, {}, 16 / 2),
        ("single", 1, {"precision": "bf16", "optim": "adafactor"}, 8),
        ("single", 1, {"precision": "bf16_pure", "optim": "adamw_torch_fused"}, 8),
        ("single", 1, {"precision": "fp32", "optim": "adamw_torch"}, 16),
        ("single", 1, {"precision": "bf16", "optim": "adamw_8bit"}, 10),
    ):
        memory = training_memory(deepseek, job("moe_sft", launch, processes, **options))
        state = memory.weights + memory.gradients + memory.optimizer
        assert state / deepseek.moe_total == pytest.approx(bytes_a_parameter, rel=0.01)
        assert memory.peak > state + RUNTIME


@pytest.mark.parametrize(
    ("launch", "options", "bytes_a_parameter"),
    [
        ("zero2", {}, 4 + 2 + 2),
        ("zero3", {}, 4 + 2 + 2),
        ("zero2", {"precision": "fp32"}, 4),
        ("zero2", {"offload_optimizer": True}, 4),
    ],
)
def test_zero_copies_gradients_in_bf16_before_it_converts_them(
    deepseek, launch, options, bytes_a_parameter
):
    """On an emulated GPU, tinyllama-1.1b (zero2) and stable-code-3b (zero3) needed so much from the
    second update on.
    """
    few = {"length": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    memory = training_memory(deepseek, job("moe_sft", launch, 16, **few, **options))
    state = memory.weights + memory.gradients + memory.optimizer
    update = memory.peak - state - 2 * RUNTIME
    assert update == pytest.approx(bytes_a_parameter * deepseek.moe_total / 16, rel=0.01)


def test_only_what_learns_has_gradients_and_an_optimiser(tmp_path):
    models = models_of(tmp_path, DEEPSEEK, experts="lora", rank=64)
    learned = 24 * (8 * 64 * 3 * (2048 + 5504) + 2 * 7 * 2048 + 7 * 7)
    memory = training_memory(models, job())
    assert memory.weights == 4 * models.moe_total
    assert (memory.gradients, memory.optimizer) == (4 * learned, 8 * learned)
    assert memory_and_disk.checkpoint_bytes(models, job()) == 3 * 12 * learned
    frozen = models.moe_total - learned
    for launch, of_frozen, of_learned in (("zero2", 4, 14), ("zero3", 2, 14), ("fsdp", 4, 12)):
        written = memory_and_disk.checkpoint_bytes(models, job("moe_sft", launch, 4))
        assert written == 3 * (of_frozen * frozen + of_learned * learned)


def test_what_the_host_holds_is_not_on_the_gpu(deepseek):
    memory = training_memory(deepseek, job("moe_sft", "zero2", offload_optimizer=True))
    assert (memory.optimizer, memory.host) == (0, 12 * deepseek.moe_total)
    peaks = [training_memory(deepseek, job(**more)).peak for more in ({}, {"ema_decay": 0.9})]
    assert peaks[1] - peaks[0] == 4 * deepseek.moe_total


def test_both_gradients_of_a_tied_head_are_there_with_their_sum(tmp_path):
    """At the end of the backward pass. With few tokens this is the peak."""
    few = {"length": 1, "per_device_train_batch_size": 1, "optim": "adamw_torch_fused"}
    added = []
    for is_tied in (True, False):
        config = small_config("llama", tie_word_embeddings=is_tied, vocab_size=10**5).to_dict()
        sft = job("sft", **few, precision="fp32", gradient_accumulation_steps=1)
        memory = training_memory(models_of(tmp_path, config), sft)
        state = memory.weights + memory.gradients + memory.optimizer
        added.append(memory.peak - state - RUNTIME)
    assert added[0] == 2 * 4 * 10**5 * 32 > added[1]


def test_half_of_the_activations_is_no_room_for_adafactors_update(tmp_path):
    """As torch's allocator shows. The update's tensors are as large as the embedding."""
    config = DEEPSEEK | {"vocab_size": 10**6}
    sft = job("sft", precision="bf16_pure", optim="adafactor", activation_checkpointing=True)
    memory = training_memory(models_of(tmp_path, config), sft)
    update = 4 * 4 * 10**6 * 2048
    state = memory.weights + memory.gradients
    assert memory.peak == state + memory.activations // 2 + update + RUNTIME


def test_the_first_two_gradients_of_a_head_in_bf16_are_beside_their_sum(tmp_path):
    """A sum in fp32 does not fit where the logits of the chunk were."""
    few = {"length": 1, "per_device_train_batch_size": 1, "precision": "bf16_pure"}
    config = small_config("llama", vocab_size=10**5).to_dict()
    sizes = []
    for width in (32, 64):
        models = models_of(tmp_path, config | {"hidden_size": width})
        sizes.append(activation_bytes(models, job("sft", **few))[0])
    assert sizes[1] - sizes[0] == pytest.approx((4 + 2 + 2) * 10**5 * 32, rel=0.01)


@pytest.mark.parametrize("is_mixture", [False, True])
def test_an_evaluation_has_all_prompts_at_once_or_all_solutions(deepseek, is_mixture):
    """16 prompts of 512 tokens in bf16. Of the six experts that compute a token, five are
    routed.
    """
    table = deepseek.mixture if is_mixture else deepseek.base
    inner = 5 * (2048 + 5 * 5504) if is_mixture else 3 * 5504
    prompts, of_token = 16 * 512, 2 * 24 * 2048 * 2  # keys and values in 24 layers
    logits = 4 * 4 * 16 * 32256
    for new, largest in (
        (1, 2 * prompts * (4 * 2048 + inner) + prompts * of_token // 4),
        (10_000, 16 * 10_000 * of_token),
    ):
        options = EvaluationConfig(batch_size=16, max_new_tokens=new)
        kept = table.nbytes + prompts * of_token + logits + RUNTIME
        assert generation_memory(deepseek, is_mixture, options) == kept + largest


def test_checkpointing_keeps_autocasts_copies_of_all_but_the_routed_experts(deepseek):
    """Autocast frees its copies at the end of the forward pass, and copies no slices."""
    options = {"precision": "bf16", "activation_checkpointing": True}
    dense = deepseek.dense_total + 24 * (2 * 7 * 2048 + 7 * 7)  # with the routers
    assert training_memory(deepseek, job("moe_sft", **options)).extra == 2 * dense
    assert training_memory(deepseek, job("sft", **options)).extra == 2 * deepseek.dense_total


# Advice

VARIED = {"moe": {"init": init_example("noise")}}


@pytest.mark.parametrize(
    ("sections", "gpu", "told", "absent"),
    [
        ({}, "h100-80gb", ["43.6", "66.0", "59.3", "30.6"], "offload"),
        ({}, "l40s", ["41.5", "32.1", "30.6"], "zero"),  # 41.5: pure bf16, checkpointing, 2 rows
        ({"moe_sft": {"ema_decay": 0.9}}, "h200", [], "launch"),  # shards keep no average
        (VARIED, "h200", ["129.2", "130.0"], "experts"),  # not low-rank ones
        ({}, None, [], "launch"),  # all processes of a machine share its memory
    ],
)
def test_changes_make_a_model_of_1_5b_fit(tmp_path, sections, gpu, told, absent):
    base = models_of(tmp_path, DEEPSEEK | BASES["qwen2.5-coder-1.5b"]["config"]).base
    processor = GPUS.get(gpu, Processor(0, 0, memory=40))

    def plan_of(sections: dict) -> Estimate:
        config = complete({"base": {"model": "x"}, "data": {"train": "x"}} | sections)
        models, trainings = Models(base, config.moe), ("moe_sft", "sft", "mixing")
        return Estimate(config, models, 10_000, gpu, processor, None, trainings)

    found = list(ways(plan_of(sections), "moe_sft"))
    assert found and absent not in str([changes for changes, _ in found])
    text = "\n".join(advice(plan_of(sections)))
    assert all(f" {peak} GiB, " in text for peak in told)
    of_moe_sft = text.partition("moe_sft fits with ")[2].partition(" fits with ")[0]
    hours = [*map(float, re.findall(r"GiB, +([\d.]+) hours  {(?!moe: )", of_moe_sft))]
    assert hours == sorted(hours) and bool(hours) == (gpu is not None)
    for changes, stated in found:  # the user lays them over the configuration
        made = plan_of(overlaid(sections, changes))
        assert made.peak("moe_sft") == stated.peak("moe_sft") < 0.93 * processor.memory * 2**30
        assert made.job("moe_sft").global_batch == 8
        told = next((line for line in advice(made) if "25% above its estimate" in line), "")
        is_tight = 1.25 * made.peak("moe_sft") > 0.93 * processor.memory * 2**30
        assert ("moe_sft" in told) == is_tight


# The tool


@pytest.fixture
def project(tmp_path, tiny_llama, monkeypatch, hashed_code):
    """A working folder with a configuration of the tiny model, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("rows.jsonl").write_text('{"instruction": "Add.", "response": "a + b"}\n' * 3)
    write_config({"base": {"model": str(tiny_llama)}, "data": {"train": "rows.jsonl"}})
    return tmp_path


MINE = ["--config", "mine.yaml"]


def write_config(config: dict) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(config))


def change_config(**changes) -> None:
    write_config(yaml.safe_load(Path("mine.yaml").read_text()) | changes)


def planned(*words: str) -> Estimate:
    return plan_and_totals(*words, *MINE)[0]


def plan_and_totals(*words: str) -> tuple[Estimate, Totals]:
    """The plan of a configuration, and the jobs of all runs."""
    args = plan._parser().parse_args(words)
    values = plan.read_overlaid(args.config)
    experiment = plan.find_experiment(complete(*values), find_runs(*values))
    plans = plan.planner(args, experiment)
    return plans(experiment.config), totals(experiment, plans, is_measured=False)


def test_plans_and_rules_need_neither_torch_nor_transformers(project):
    code = (
        "import sys\nfrom xft.tools import plan\nfrom pathlib import Path\n"
        "from xft.dag.job_resources import Requests\n"
        "plan.main(['--config', 'mine.yaml', '--gpu', 'h100', '--gpus', '2', '--details'])\n"
        "config = plan.complete(*plan.read_overlaid([Path('mine.yaml')]))\n"
        "asked = Requests(config, Path(config.base.model))\n"
        "assert asked.models and asked.training('moe_sft') and asked.evaluation('base')\n"
        "print('MODULES', *sys.modules)\n"
    )
    text, _, modules = python("-c", code).stdout.partition("MODULES")
    assert {"torch", "transformers", "accelerate"} & set(modules.split()) == set()
    words = "dense ", "Work", "evaluation of base", "Memory", "Disk", "an h100 has 79.6 GiB"
    for part in (*words, "an evaluation of a mixture needs "):
        assert part in text
    assert max(map(len, text.splitlines())) <= 110
    assert re.search(r"moe_sft, zero3( +[1-9]\d* [KM]iB)+( +2.\d GiB)+\n", text)
    assert not re.search(r" 0(\.0)? [KMG]", text)


NVIDIA_SMI = r"""#!/bin/sh
case $1$3 in *uuid) printf "GPU-%s\n" a b c ;; *--id=GPU-a,GPU-b,GPU-c)
printf "[N/A], NVIDIA GB10\n81559, NVIDIA H100 80GB HBM3\n24576, NVIDIA GeForce RTX 4090\n" ;; esac
"""


def test_the_smallest_gpu_of_this_machine_is_found(project, monkeypatch):
    Path("nvidia-smi").write_text(NVIDIA_SMI)
    Path("nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}:{os.environ['PATH']}")
    assert planned().gpu is None  # none is visible
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert (planned().gpu, planned().processor.memory) == ("rtx4090", 24)


def test_hours_on_a_cpu_need_a_speed(project, capsys, monkeypatch):
    monkeypatch.setattr(Release, "ask", lambda chosen: None)  # the problems could be fetched
    plan.main(MINE)
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines]
    assert words == ["Fits", "Time:", "Slowest", "Disk:", "Everything"]
    assert "yes. moe_sft needs " in lines[0] and "? It depends on the speed" in lines[1]
    made = planned("--flops", "1e6")
    work = made.work("moe_sft")
    assert made.training_hours("moe_sft") == work.flops / 1e6 / 3600
    assert made.evaluation_hours(is_mixture=True) > made.evaluation_hours(is_mixture=False) > 0
    assert planned("--rows", "7").rows == 7 != made.rows


def test_each_set_of_problems_takes_its_part_of_the_hours(project):
    """Of a set in each form; a batch is filled in both. Two solutions of each of 192 problems are
    12 batches of 32; each takes 0.2 s to judge.
    """
    rows = {"js": {"tests": "1", "language": "js"}, "own": {"base_input": [[1]]}}
    for (name, row), count in zip(rows.items(), (160, 32), strict=True):
        Path(f"{name}.jsonl").write_text((json.dumps(row) + "\n") * count)
    sets = {"models": ["base"], "datasets": ["js.jsonl", "own.jsonl"], "batch_size": 32}
    sets |= {"samples": 2, "temperature": 1.0, "max_new_tokens": 100}
    change_config(evaluation=sets)
    made, jobs = plan_and_totals("--flops", "1e9", *MINE)
    longer, shorter = (hours for hours, _ in jobs.hours["eval"])
    assert longer == pytest.approx(5 * shorter)
    of_flops, of_reading = 2 * 384 * (512 + 100) / 1e9, 4 * 12 * 100 / 10e9
    generated = made.models.dense_total * (of_flops + of_reading)
    assert 3600 * (longer + shorter) == pytest.approx(generated + 384 * 0.2)


def test_a_tuning_at_equal_flops_takes_as_long_as_that_of_the_mixture(project):
    """Both compute as many FLOPs, on the same processor, also if sft itself takes fewer rows."""
    change_config(sft={"max_steps": 1}, evaluation={"models": ["sft", "moe_sft", "sft_flops"]})
    _, jobs = plan_and_totals("--flops", "1e9", *MINE)
    ((_, of_mixture),) = jobs.hours["moe_sft"]
    (_, plain), (_, at_equal_flops) = jobs.hours["sft"]
    assert plain < 0.7 * at_equal_flops
    assert at_equal_flops == pytest.approx(of_mixture, rel=0.01)


def test_a_plan_says_what_the_rows_are_too_few_for(project, capsys):
    change_config(moe_sft={"warmup_steps": 99})
    with pytest.raises(UserError, match=r"^mine\.yaml: moe_sft, with at most 3 rows: warmup_"):
        plan.main(MINE)
    assert not capsys.readouterr().out


def test_each_file_lies_over_the_one_before(project, capsys):
    Path("config.yaml").write_text("moe: {num_experts: 4, num_experts_per_tok: 2}\n")
    assert planned().models.moe == MoeConfig()  # the demonstration's lies under no other
    Path("more.yaml").write_text("moe: {num_experts: 4, num_experts_per_tok: 3}\n")
    Path("fewer.yaml").write_text("moe: {num_experts_per_tok: 2}\nseeds: [1, 2]\n")
    plan.main([*MINE, "more.yaml", "fewer.yaml", "--details"])
    text = capsys.readouterr().out
    assert "All jobs of 2 runs;" in text
    change_config(moe={"num_experts": 4, "num_experts_per_tok": 2})
    assert summary(planned(), "")[1] in text


@pytest.mark.parametrize(("keep", "dense"), [("all", 4), ("none", 0)])
def test_what_runs_share_counts_once(project, capsys, keep, dense):
    Path("mine.py").write_text("def mine(tensors, coefficients, base): pass")
    variants = {"xft": {}, "own": {"merge": {"method": "mine.py:mine"}}}
    change_config(seeds=[42, 43], merge={"keep": keep}, variants=variants)
    plan.main([*MINE, "--gpu", "h100", "--details"])
    table = capsys.readouterr().out.partition("All jobs of 4 runs;")[2]
    rows = [line.split() for line in table.splitlines() if re.match(r"  \w+ +\d", line)]
    jobs = {rule: int(number) for rule, number, *_ in rows}
    expected = {"base": 1, "tokens": 1, "moe_sft": 2, "weighted_trained": 2, "dense": 4}
    assert {rule: jobs[rule] for rule in expected} == expected
    assert "contamination" not in jobs  # the rows are cleaned of all problems
    assert jobs.pop("all") == sum(jobs.values())
    stored = planned().models.base.nbytes / 1e3
    ends = {rule: " ".join(cells[1:]) for rule, *cells in rows}
    assert ends["dense"].endswith(f" {dense * stored:.0f} KB" if dense else " 0")


OFFLINE = {"base": {"model": "org/name", "revision": "0" * 40}, "data": {"train": "rows.jsonl"}}


def test_a_users_mistake_ends_in_one_message(project, call_step):
    for words, message in (
        ("", "name the model's config.json, a small file, with"),
        ("--model-config empty.json", "has no whole number for hidden"),
        ("--model-config bad.json", "cannot build the model: KeyError"),
        ("--mfu 3", "--mfu = 3: must be greater than 0"),
    ):
        write_config(OFFLINE)
        Path("empty.json").write_text("{}")
        Path("bad.json").write_text(json.dumps(DEEPSEEK | {"hidden_act": "nonsense"}))
        done = call_step("plan", "--config", "mine.yaml", *words.split(), cwd=project)
        assert (done.returncode > 0, done.stdout) == (True, "")
        assert "plan: error: " in done.stderr and message in done.stderr


# Recipes and experiments

NEEDS = re.compile(r"What it needs \(xft plan --config FILES?(.*)\)")


def configurations() -> list[Path]:
    """Those with a base from BASES. Any other that says what it needs fails."""
    root = Path(__file__).parents[2]
    files = sorted([*root.glob("recipes/*.yaml"), *root.glob("experiments/*.yaml")])
    return [f for f in files if f.name.startswith(tuple(BASES)) or NEEDS.search(f.read_text())]


@pytest.mark.parametrize("file", configurations(), ids=lambda file: file.stem)
def test_headers_hold_the_plans_figures(file, repository, tmp_path, monkeypatch):
    """But the demonstrations, whose model comes along, and what lies over other configs."""
    name, text = file.stem, file.read_text()
    base = max(filter(name.startswith, BASES), key=len)
    files = re.search(r"--configfile (.+)", text)[1].split()
    words = NEEDS.search(text)[1].split()
    monkeypatch.chdir(repository)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK | BASES[base]["config"]))
    words += [f"--model-config={tmp_path / 'config.json'}", "--config", *files]
    made, jobs = plan_and_totals(*words)
    lines = summary(made, jobs.disk)
    assert lines[0] == f"dense {BASES[base]['parameters']:,} parameters"
    assert "".join(f"#   {line}\n" for line in lines) in text
    assert not made.gpu or all(fits(made, section) for section in made.trainings)
    page = Path("recipes/README.md").read_text()
    if f"[{name}]" in page:
        count, peak = made.job("moe_sft").processes, max(map(made.peak, made.trainings)) / 2**30
        device, hours = "CPU", ""
        if made.gpu:
            device = f"{f'{count} x ' if count > 1 else ''}{made.processor.memory:.0f} GB"
            hours = f" {sum(map(made.training_hours, made.trainings)):.1f}"
        row = f"| {device} | [{name}]({name}.yaml) | {peak:.1f} |{hours} | {lines[2].split()[1]} |"
        assert row in page


MIXTURE, DENSE = 7_028_346_008, 1_346_471_936  # parameters
STEPS = {"max_steps": 10}
ON_GPUS = STEPS | {"launch": "zero3", "processes": 4}


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> Path:
    """The base of the paper: the headers of its weights, and no values."""
    folder = tmp_path_factory.mktemp("headers")
    (folder / "config.json").write_text(json.dumps(DEEPSEEK))
    header, end = {}, 0
    for name, (dtype, shape) in compute_table(folder / "config.json").tensors.items():
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def requests(base: Path, **config) -> Requests:
    sections = {"base": {"model": "x"}, "data": {"train": "x"}} | config
    return Requests(complete(sections), base)


def memory(base: Path, section="moe_sft", **config) -> int:
    """Bytes that a training asks for."""
    return requests(base, **config).training(section).mem_mb * 10**6


def assert_about(asked: int, needed: float) -> None:
    """At least what is needed, in bytes, and at most half of it more and 10 GB for libraries."""
    assert needed < asked < 1.5 * needed + 10e9


def test_a_base_that_is_not_there_is_seen_as_soon_as_it_is(headers, tmp_path):
    asked = requests(tmp_path / "base", moe_sft={"launch": "ddp", "processes": 4})
    assert asked.training("moe_sft").mem_mb == 4 * 16000
    before = asked.conversion(), asked.evaluation(is_mixture=False)
    (tmp_path / "base").symlink_to(headers)
    assert asked.training("moe_sft").mem_mb > 4 * 16000
    assert asked.conversion() != before[0]
    assert asked.evaluation(is_mixture=False) != before[1]


@pytest.mark.parametrize("missing", ["vocab_size", "model_type", "num_hidden_layers"])
def test_a_base_that_makes_no_sense_is_left_to_the_steps(headers, tmp_path, missing):
    config = {key: value for key, value in DEEPSEEK.items() if key != missing}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(headers / "model.safetensors")
    for asked in (requests(tmp_path), requests(tmp_path, gpus=1)):
        needs = [asked.conversion(), asked.evaluation(is_mixture=True)]
        needs += map(asked.training, ("moe_sft", "mixing"))
        assert all(need.mem_mb > 0 for need in needs)


def test_a_training_on_a_cpu_is_all_in_the_hosts_memory(headers):
    asked = requests(headers, moe_sft=STEPS)
    planned = training_memory(asked.models, configured_job(asked.config, "moe_sft"))
    one = memory(headers, moe_sft=STEPS)
    assert_about(one, planned.peak)
    assert memory(headers, moe_sft=STEPS | {"launch": "ddp", "processes": 2}) > 2 * one  # buckets
    assert 16 * DENSE < memory(headers, "sft", moe_sft=STEPS) < one
    # Step 6 reads the files of all experts, in bf16. Seven of the eight are what the base lacks.
    planned = training_memory(asked.models, configured_job(asked.config, "mixing"))
    assert_about(memory(headers, "mixing"), planned.peak + 2 * (MIXTURE - DENSE) * 8 / 7)


def test_with_gpus_each_process_loads_the_model_and_one_gathers_it(headers):
    one = memory(headers, gpus=1, moe_sft=ON_GPUS)
    assert_about(one, 4 * (2 * MIXTURE + 6e9) + 4 * MIXTURE)
    more = memory(headers, gpus=1, moe_sft=ON_GPUS | {"offload_optimizer": True}) - one
    assert more == pytest.approx(1.25 * 12 * MIXTURE, rel=0.01)  # Adam's state and master weights
    ddp = STEPS | {"launch": "ddp", "processes": 2}
    of_nodes = memory(headers, gpus=1, moe_sft=ddp | {"nodes": 3})
    assert of_nodes == memory(headers, gpus=1, moe_sft=ddp)  # each node asks for itself


def test_conversions_stream_and_evaluations_load(headers):
    evaluation = {"batch_size": 8, "max_new_tokens": 512}
    asked = requests(headers, evaluation=evaluation)
    assert asked.conversion().mem_mb * 10**6 < 2 * DENSE * 4
    # Keys and values of 8 rows of 1024 tokens in 24 layers.
    cache = 8 * 1024 * 24 * 2 * 2048 * 4
    on_gpu = requests(headers, gpus=1, evaluation=evaluation)
    in_fp32 = requests(headers, gpus=1, evaluation=evaluation | {"precision": "fp32"})
    on_cpus = (asked, False, 4 * DENSE + cache), (asked, True, 4 * MIXTURE + cache)
    on_gpus = (on_gpu, True, 2 * MIXTURE), (in_fp32, True, 4 * MIXTURE)
    for asked_for, is_mixture, needed in (*on_cpus, *on_gpus):
        assert_about(asked_for.evaluation(is_mixture).mem_mb * 10**6, needed)
    assert in_fp32.evaluation(is_mixture=True).minutes >= on_gpu.evaluation(is_mixture=True).minutes


def test_time_follows_the_work_up_to_a_day(headers, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"\n" * 10_000_000)  # 20,000 rows of 500 bytes
    data = {"data": {"train": str(rows)}, "gpus": 1}

    def minutes(section="moe_sft", **changes) -> int:
        return requests(headers, **data, **{section: changes}).training(section).minutes

    assert minutes(max_steps=1) == 60
    assert minutes(num_train_epochs=1000) == 24 * 60
    assert requests(headers).training("moe_sft").minutes == 24 * 60  # of unknown rows
    once = minutes(num_train_epochs=1)
    # 6 FLOPs for each active parameter and token, and the attention's, on 0.3 of an A10.
    assert once * 60 == pytest.approx(6 * 20_000 * 1024 * 5.4e9 / (0.3 * 125e12), rel=0.1)
    # sft_flops takes as many FLOPs. The epochs of section sft do not matter.
    tunings = {"moe_sft": {"num_train_epochs": 1}, "sft": {"num_train_epochs": 0.1}}
    assert requests(headers, **data, **tunings).training("sft").minutes == once
    sped = minutes(num_train_epochs=1, launch="ddp", processes=4)
    assert sped == pytest.approx(once / 4, abs=1)
